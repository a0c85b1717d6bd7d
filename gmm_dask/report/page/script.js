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

  const layers = all('input[name="layer"]');

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

  function moveEllipses(article, frame) {
    for (const group of all("[data-move]", article)) {
      const [component, pair, x, y] = group.dataset.move.split(" ").map(Number);
      const { width, height } = group.parentNode.viewBox.baseVal;
      const means = frame.means[component];
      const deviations = frame.deviations[component];
      const correlation = frame.correlations[component][pair];
      const l = Math.max(deviations[x], LEAST);
      const m = deviations[y] * correlation;
      const n = Math.max(deviations[y] * Math.sqrt(Math.max(0, 1 - correlation ** 2)), LEAST);
      const entries = [
        width * l, -height * m, 0, -height * n, width * means[x], height * (1 - means[y]),
      ];
      group.setAttribute("transform", `matrix(${entries.map((e) => e.toFixed(2)).join(" ")})`);
    }
    for (const label of all("[data-at]", article)) {
      const [component, x, y] = label.dataset.at.split(" ").map(Number);
      const { width, height } = label.parentNode.viewBox.baseVal;
      const means = frame.means[component];
      const place = [width * means[x], height * (1 - means[y])].map((e) => e.toFixed(2));
      label.setAttribute("transform", `translate(${place.join(" ")})`);
    }
  }

  function drawCurves(panel, frame) {
    const total = panel.querySelector("[data-total]");
    const feature = Number(total.dataset.total);
    const { width, height } = total.parentNode.viewBox.baseVal;
    const tallest = Number(panel.dataset.tallest);
    const means = frame.means.map((row) => row[feature]);
    const deviations = frame.deviations.map((row) => Math.max(row[feature], LEAST));
    const grid = [];
    for (let i = 0; i <= 120; i++) grid.push(i / 120);
    means.forEach((mean, j) => {
      for (let i = -6; i <= 6; i++) grid.push(mean + (i / 2) * deviations[j]);
    });
    const xs = grid.filter((x) => x >= 0 && x <= 1).sort((a, b) => a - b);
    const sums = xs.map(() => 0);
    const path = (heights) =>
      "M" +
      xs.map((x, i) => {
        const y = Math.max(height * (1 - heights[i] / tallest), -20);
        return `${(width * x).toFixed(1)} ${y.toFixed(1)}`;
      }).join("L");
    for (const curve of all("[data-curve]", panel)) {
      const j = Number(curve.dataset.curve.split(" ")[0]);
      const peak = frame.weights[j] / (deviations[j] * Math.sqrt(2 * Math.PI));
      const heights = xs.map((x) => peak * Math.exp(-0.5 * ((x - means[j]) / deviations[j]) ** 2));
      heights.forEach((value, i) => (sums[i] += value));
      curve.setAttribute("d", path(heights));
    }
    total.setAttribute("d", path(sums));
  }

  function prepareReplay(article) {
    const { frames, values } = versions[Number(article.dataset.version)];
    const slider = article.querySelector(".iteration");
    if (!slider) return;
    const output = article.querySelector(".replay output");
    const play = article.querySelector(".play");
    const last = frames.length - 1;
    let timer = null;

    function describe(number) {
      const { iteration } = frames[number];
      const value = String(Number(values[number].toPrecision(6))).replace("-", "−");
      const words = `${iteration} of ${frames[last].iteration}: ${value} nats per row`;
      output.textContent = words;
      slider.setAttribute("aria-valuetext", "iteration " + words);
      for (const point of all("[data-iteration]", article))
        point.classList.toggle("now", Number(point.dataset.iteration) === iteration);
    }

    function draw() {
      const number = Number(slider.value);
      moveEllipses(article, frames[number]);
      for (const panel of all("[data-tallest]", article)) drawCurves(panel, frames[number]);
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
