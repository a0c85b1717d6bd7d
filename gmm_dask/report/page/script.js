"use strict";
// The replay of EM, the component that is followed, and letters of one size in every chart.
// Everything is drawn without this script too, as the last iteration left it.
(() => {
  const LEAST = 1e-4; // as in scatter.py: the least deviation that is drawn
  const versions = JSON.parse(document.getElementById("frames").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- which component

  const radios = all('input[name="component"]');

  function choose(id) {
    for (const radio of radios) radio.checked = radio.value === id;
    follow();
  }

  function follow() {
    const id = radios.find((radio) => radio.checked)?.value ?? "";
    document.documentElement.classList.toggle("chosen", id !== "");
    for (const mark of all("main [data-id]")) mark.classList.toggle("on", mark.dataset.id === id);
    for (const button of all("main button[data-id]"))
      button.setAttribute("aria-pressed", String(button.dataset.id === id));
  }

  for (const radio of radios) radio.addEventListener("change", follow);
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("main [data-id]");
    if (mark) choose(mark.classList.contains("on") ? "" : mark.dataset.id);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose("");
  });

  // --- what lies behind the ellipses

  const layers = all(".layers input");

  function show() {
    const layer = layers.find((radio) => radio.checked)?.value ?? "rows";
    document.documentElement.dataset.layer = layer;
  }

  for (const radio of layers)
    radio.addEventListener("change", () => {
      for (const other of layers) other.checked = other.value === radio.value;
      show();
    });

  // --- the replay

  // What moves in a version, and where to: read once, for a step must not take long.
  function movers(article) {
    const parts = (mark, name) => mark.dataset[name].split(" ").map(Number);
    const size = (mark) => mark.parentNode.viewBox.baseVal;
    return {
      ellipses: all("[data-move]", article).map((mark) => [mark, size(mark), parts(mark, "move")]),
      labels: all("[data-at]", article).map((mark) => [mark, size(mark), parts(mark, "at")]),
      panels: all("[data-tallest]", article).map((panel) => ({
        total: panel.querySelector("[data-total]"),
        curves: all("[data-curve]", panel).map((mark) => [mark, parts(mark, "curve")[0]]),
        tallest: Number(panel.dataset.tallest),
      })),
    };
  }

  function moveEllipses({ ellipses, labels }, frame) {
    for (const [mark, { width, height }, [component, pair, x, y]] of ellipses) {
      const means = frame.means[component];
      const deviations = frame.deviations[component];
      const correlation = frame.correlations[component][pair];
      const across = width * Math.max(deviations[x], LEAST);
      const along = -height * deviations[y] * correlation;
      const upright =
        -height * Math.max(deviations[y] * Math.sqrt(Math.max(0, 1 - correlation ** 2)), LEAST);
      const place = `${(width * means[x]).toFixed(2)} ${(height * (1 - means[y])).toFixed(2)}`;
      const shape = `${across.toFixed(2)} ${along.toFixed(2)} 0 ${upright.toFixed(2)}`;
      mark.setAttribute("transform", `matrix(${shape} ${place})`);
    }
    for (const [mark, { width, height }, [component, x, y]] of labels) {
      const means = frame.means[component];
      const place = `${(width * means[x]).toFixed(2)} ${(height * (1 - means[y])).toFixed(2)}`;
      mark.setAttribute("transform", `translate(${place})`);
    }
  }

  function drawCurves({ total, curves, tallest }, frame) {
    const feature = Number(total.dataset.total);
    const { width, height } = total.parentNode.viewBox.baseVal;
    const means = frame.means.map((row) => row[feature]);
    const deviations = frame.deviations.map((row) => Math.max(row[feature], LEAST));
    const peaks = deviations.map((sd, j) => frame.weights[j] / (sd * Math.sqrt(2 * Math.PI)));
    const path = (points) =>
      "M" +
      points.map(([x, value]) => {
        const y = Math.max(height * (1 - value / tallest), -20);
        return `${(width * x).toFixed(1)} ${y.toFixed(1)}`;
      }).join("L");
    for (const [curve, j] of curves) {
      const scores = Array.from({ length: 33 }, (_, i) => i / 4 - 4);
      const points = scores.map((z) => [
        means[j] + deviations[j] * z, peaks[j] * Math.exp(-0.5 * z ** 2),
      ]);
      curve.setAttribute("d", path(points));
    }
    const grid = Array.from({ length: 121 }, (_, i) => i / 120);
    for (const [j, mean] of means.entries())
      for (const z of [-2, -1, 0, 1, 2]) grid.push(mean + deviations[j] * z);
    const points = grid.filter((x) => x >= 0 && x <= 1).sort((a, b) => a - b).map((x) => {
      const density = (sum, peak, j) =>
        sum + peak * Math.exp(-0.5 * ((x - means[j]) / deviations[j]) ** 2);
      return [x, peaks.reduce(density, 0)];
    });
    total.setAttribute("d", path(points));
  }

  function prepareReplay(article) {
    const { frames, words, points } = versions[Number(article.dataset.version)];
    const slider = article.querySelector(".iteration");
    if (!slider) return;
    const output = article.querySelector(".replay output");
    const play = article.querySelector(".play");
    const last = frames.length - 1;
    const moving = movers(article);
    let timer = null;

    function describe(number) {
      output.textContent = words[number];
      slider.setAttribute("aria-valuetext", "iteration " + words[number]);
      for (const point of all("[data-iteration]", article))
        point.classList.toggle("now", point.dataset.iteration === points[number]);
    }

    function draw() {
      const number = Number(slider.value);
      moveEllipses(moving, frames[number]);
      for (const panel of moving.panels) drawCurves(panel, frames[number]);
      describe(number);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.setAttribute("aria-pressed", "false");
      play.textContent = "Replay EM";
    }

    slider.addEventListener("input", () => {
      stop();
      draw();
    });
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(slider.value) === last) slider.value = 0;
      play.setAttribute("aria-pressed", "true");
      play.textContent = "Pause";
      draw();
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        draw();
        if (Number(slider.value) === last) stop();
      }, Math.max(80, Math.min(600, 6000 / last)));
    });
    slider.value = last;
    describe(last);
  }

  // --- letters of one size, however wide a chart is

  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      if (!contentRect.width) continue;
      const unit = Number(target.dataset.width) / contentRect.width;
      target.style.setProperty("--unit", Math.min(1.9, Math.max(0.5, unit)));
    }
  });

  for (const chart of all("svg[data-width]")) sizes.observe(chart);
  for (const article of all(".version")) prepareReplay(article);
  follow();
  show();
})();
