"""Every kind of cluster, opened for real: local processes, TLS, and what is refused."""

from __future__ import annotations

import datetime
import logging
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gmm_dask.chunked.cluster import ClusterExecutor, kinds, open_executor
from gmm_dask.chunked.cluster.worker import collect_facts
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import (
    ClusterConfig,
    Deadlines,
    LocalProcesses,
    RunningScheduler,
    SchedulerFile,
    SlurmJobs,
    ThreadsCluster,
    TlsSection,
    check_config,
)
from gmm_dask.errors import ClusterError, ConfigError
from gmm_dask.events import Stage
from tests.dask_processes import Processes, processes
from tests.row_sources import chunk_numbers, drawn, process_ids
from tests.waiting import until

SOON = Deadlines(connect=20, no_progress=20, worker_lost=20)
NOW = Deadlines(connect=0.3)


def opened(kind: Any) -> Any:
    """Open a kind of cluster that should be refused."""
    with open_executor(kind) as executor:
        return executor


def test_threads_need_no_cluster() -> None:
    with open_executor(ThreadsCluster(threads=2, deadlines=Deadlines(no_progress=5))) as executor:
        assert isinstance(executor, Threads)
        assert (executor.threads, executor.no_progress) == (2, 5.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("running"), 2) as started:
        yield started


@pytest.mark.slow
def test_a_running_scheduler_is_used_by_address_and_left_running(
    running: Processes, small_groups: int, caplog: pytest.LogCaptureFixture
) -> None:
    kind = RunningScheduler(kind="address", address=running.address, deadlines=SOON)
    for _ in range(2):
        with caplog.at_level(logging.INFO, "gmm_dask"), open_executor(kind) as executor:
            until(
                lambda: len(executor.roster.workers) == 2 or executor.roster.refresh(), "no workers"
            )
            source = drawn(12, 500)
            assert Scanner(source, executor).reduce(chunk_numbers, None, Stage.SURVEY) == tuple(
                range(12)
            )
        assert "GiB for rows cached between scans: tcp://127.0.0.1:" in caplog.text
    assert running.scheduler.poll() is None
    assert [worker.poll() for worker in running.workers] == [None, None]


@pytest.mark.slow
def test_a_running_scheduler_is_found_by_its_file(running: Processes, small_groups: int) -> None:
    kind = SchedulerFile(kind="scheduler_file", path=str(running.file), deadlines=SOON)
    with open_executor(kind) as executor:
        assert Scanner(drawn(12, 500), executor).reduce(chunk_numbers, None, Stage.SURVEY) == tuple(
            range(12)
        )


@pytest.mark.slow
def test_workers_unlike_this_process_are_refused_by_name_unless_allowed(
    tmp_path: Path, small_groups: int
) -> None:
    with processes(tmp_path, 0) as started:
        started.start_worker(NUMBA_CPU_NAME="generic")
        kind = RunningScheduler(kind="address", address=started.address, deadlines=SOON)
        message = (
            r"these workers would not compute the same bits: tcp://127\.0\.0\.1:\d+: cpu generic, "
            r"here \S+; CPU features differ in .*; give them the versions and the CPU of this "
            r"process, or set allow_mixed = true"
        )
        with pytest.raises(ClusterError, match=message):
            opened(kind)
        with open_executor(kind.model_copy(update={"allow_mixed": True})) as executor:
            assert isinstance(executor, ClusterExecutor)
            assert len(executor.mixed) == 1
            assert "cpu generic" in executor.mixed[0]
            chunks = Scanner(drawn(6, 500), executor).reduce(chunk_numbers, None, Stage.SURVEY)
            assert chunks == tuple(range(6))
            assert len(executor.mixed) == 1


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_input_is_refused_before_the_first_scan(
    tmp_path: Path, small_groups: int
) -> None:
    source = drawn(30, 500, place=str(tmp_path))
    with processes(tmp_path, 0) as started:
        started.start_worker(DRAWN_ROWS_HIDDEN="1")
        kind = RunningScheduler(kind="address", address=started.address, deadlines=SOON)
        with open_executor(kind) as executor:
            message = (
                r"worker tcp://127\.0\.0\.1:\d+: drawn chunk 0: is not there; every worker must "
                r"see the input under the same path"
            )
            for _ in range(2):
                with pytest.raises(ClusterError, match=message):
                    Scanner(source, executor).reduce(chunk_numbers, None, Stage.SURVEY)
    assert not source.readings()


@pytest.mark.slow
def test_workers_that_join_late_help_unless_they_are_unfit(
    tmp_path: Path, small_groups: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = drawn(30, 500, place=str(tmp_path))
    source.rule("hold", 29).touch()
    with processes(tmp_path, 1) as started:
        kind = RunningScheduler(kind="address", address=started.address, deadlines=SOON)
        joined = []

        def join(event: Any) -> None:
            if not joined:
                joined.append(started.start_worker(DRAWN_ROWS_HIDDEN="1"))
                joined.append(started.start_worker())

        def both_are_known() -> bool:
            return "it gets no work" in caplog.text and "has joined" in caplog.text

        def release() -> None:
            until(both_are_known, f"not both have joined: {caplog.text}")
            source.rule("hold", 29).unlink()

        with caplog.at_level(logging.INFO, "gmm_dask"), open_executor(kind) as executor:
            thread = threading.Thread(target=release)
            thread.start()
            scanner = Scanner(source, executor, join)
            pids = scanner.reduce(process_ids, None, Stage.SURVEY)
            thread.join()
            assert "worker tcp://127.0.0.1:" in caplog.text
            assert joined[0].pid not in pids
            pids = scanner.reduce(process_ids, None, Stage.SURVEY)
            assert joined[0].pid not in pids
            assert set(pids) == {started.workers[0].pid, joined[1].pid}


def write_certificates(place: Path) -> TlsSection:
    """Write a self-signed certificate and its key, which scheduler, workers and client share."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gmm-dask tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = place / "cert.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = place / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return TlsSection(ca_file=str(pem), cert=str(pem), key=str(secret))


@pytest.mark.slow
def test_tls_admits_only_clients_with_the_certificate(tmp_path: Path, small_groups: int) -> None:
    tls = write_certificates(tmp_path)
    options = (
        "--protocol=tls",
        f"--tls-ca-file={tls.ca_file}",
        f"--tls-cert={tls.cert}",
        f"--tls-key={tls.key}",
    )
    with processes(tmp_path, 1, *options) as started:
        assert started.address.startswith("tls://127.0.0.1:")
        kind = SchedulerFile(kind="scheduler_file", path=str(started.file), tls=tls, deadlines=SOON)
        with open_executor(kind) as executor:
            assert Scanner(drawn(6, 500), executor).reduce(
                chunk_numbers, None, Stage.SURVEY
            ) == tuple(range(6))
        elsewhere = tmp_path / "strangers"
        elsewhere.mkdir()
        stranger = kind.model_copy(
            update={"tls": write_certificates(elsewhere), "deadlines": Deadlines(connect=2)}
        )
        with pytest.raises(ClusterError, match=r"no scheduler answers at tls://.* TLS files match"):
            opened(stranger)


@pytest.mark.parametrize("address", ["tcp://192.0.2.7:8786", "192.0.2.7:8786", "no-such-host:8786"])
def test_another_machine_needs_tls(address: str, tmp_path: Path) -> None:
    message = (
        r"^cluster\.address = 'tcp://.*' is not on this machine, and without TLS whoever can "
        r"reach it can run code there and here; set \[cluster\.tls\], or allow_insecure = true"
    )
    with pytest.raises(ConfigError, match=message):
        opened(RunningScheduler(kind="address", address=address, deadlines=NOW))
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://192.0.2.7:8786"}')
    with pytest.raises(ConfigError, match=r"^cluster\.path = 'tcp://192\.0\.2\.7:8786' is not on"):
        opened(SchedulerFile(kind="scheduler_file", path=str(file), deadlines=NOW))
    # TEST-NET-1 is never routed: the address is allowed and tried, but nobody answers.
    allowed = RunningScheduler(
        kind="address", address="tcp://192.0.2.7:8786", allow_insecure=True, deadlines=NOW
    )
    with pytest.raises(
        ClusterError, match=r"no scheduler answers at tcp://192\.0\.2\.7:8786 withi"
    ):
        opened(allowed)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "tcp://[::1]:1"])
def test_nobody_at_the_address_is_an_error_in_time(address: str) -> None:
    message = r"^cluster\.address: no scheduler answers at tcp://\S+ within 0\.3 s; is it running"
    with pytest.raises(ClusterError, match=message):
        opened(RunningScheduler(kind="address", address=address, deadlines=NOW))


def test_addresses_and_tls_files_are_checked(tmp_path: Path) -> None:
    tls = write_certificates(tmp_path)
    together = r"a tls:// address and the \[cluster\.tls\] files go together"
    for address, files, message in (
        ("tls://127.0.0.1:1", None, together),
        ("tcp://127.0.0.1:1", tls, together),
        ("http://127.0.0.1:1", None, r"cluster\.address = 'http:.*write tcp://host:port or tls://"),
        (
            "127.0.0.1:1",
            tls.model_copy(update={"key": "/gone.pem"}),
            r"^cluster\.tls\.key = '/gone\.pem': file not found",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            opened(RunningScheduler(kind="address", address=address, tls=files, deadlines=NOW))


def test_a_scheduler_file_that_never_comes_is_an_error_in_time(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    kind = SchedulerFile(kind="scheduler_file", path=str(file), deadlines=NOW)
    for written, why in ((None, "FileNotFoundError"), ("{", "JSONDecodeError"), ("[]", "TypeErr")):
        if written is not None:
            file.write_text(written)
        message = rf"no scheduler address in .* within 0\.3 s \({why}.*dask scheduler --scheduler"
        with pytest.raises(ClusterError, match=message):
            opened(kind)


@pytest.mark.slow
def test_a_scheduler_without_workers_is_an_error_in_time(tmp_path: Path) -> None:
    with processes(tmp_path, 0) as started:
        deadlines = Deadlines(connect=2)
        kind = RunningScheduler(kind="address", address=started.address, deadlines=deadlines)
        with pytest.raises(
            ClusterError, match=r"no worker has joined the scheduler within 2 s; st"
        ):
            opened(kind)


def cluster(**values: Any) -> Any:
    """A cluster file's table, checked as the file is."""
    return check_config(ClusterConfig, {"cluster": values}, "cluster.toml").cluster


SLURM: dict[str, Any] = {"kind": "slurm", "jobs": 2, "cores": 1, "memory": "32GB"}
FILES = {"ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


@pytest.mark.parametrize(
    ("table", "key", "good"),
    [
        (SLURM, "queue", ["short", "gpu-a100,long_2", "p.1"]),
        (SLURM, "walltime", ["90", "90:00", "02:00:00", "1-12", "7-00:00", "2-03:04:05"]),
        (SLURM, "interface", ["ib0", "eth0.100", "br-0a1b2c", "eth0:1"]),
        (SLURM, "memory", ["32GB", "1.5GiB", "4 GiB", "400M", "2e9", "64g", "1024mib"]),
        (
            {"kind": "local"},
            "memory_limit",
            ["auto", "0", "0.5", ".25", "1", "1.0", "4GiB", "2000000000", "1 TB"],
        ),
        (
            {"kind": "address"},
            "address",
            [
                "tls://10.0.0.5:8786",
                "localhost:1",
                "tcp://[::1]:8786",
                "[fe80::1%eth0]:1",
                "node_7",
            ],
        ),
        ({"kind": "scheduler_file"}, "path", ["/a b/Größe/scheduler.json", "~/x", "-f"]),
        *(
            ({"kind": "address", "address": "a:1", "tls": FILES}, f"tls.{name}", ["a b/ca.pem"])
            for name in FILES
        ),
    ],
)
def test_values_of_a_cluster_file_have_a_form(
    table: dict[str, Any], key: str, good: list[str]
) -> None:
    """What could end a line or a word of a job script is refused, wherever it stands."""
    *sections, name = key.split(".")
    wrong = ["", "x\ntouch OWNED #", *(f"{good[0]}{end}" for end in "\n\r\0\x1b\u2028")]
    if key not in ("path", *(f"tls.{name}" for name in FILES)):
        wrong += ["-x", " ", "a b", "$(id)", "`id`", "a;id", "a&", "a|b", "'", '"', "a\\b", "ü"]
        wrong += [f"{value} " for value in good] + [f" {value}" for value in good]

    def with_value(value: str) -> Any:
        changed = {**table[sections[0]], name: value} if sections else value
        return cluster(**{**table, (sections or [name])[0]: changed})

    for value in good:
        with_value(value)
    for value in wrong:
        with pytest.raises(ConfigError) as refused:
            with_value(value)
        start = f"cluster.toml: cluster.{key} = {value!r}: write "
        assert str(refused.value).startswith(start), str(refused.value)


def test_a_memory_limit_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.memory_limit = 'plenty': .*write '4GiB'"):
        cluster(kind="local", memory_limit="plenty")


@pytest.mark.parametrize("size", ["351MiB", "100 MB", "369098751", "1e8", "1", "0.5kB", "2B"])
def test_memory_in_which_no_worker_can_start_is_refused_at_once(size: str) -> None:
    message = (
        rf"cluster\.(memory|memory_limit) = '{size}': a worker of \d+ MiB cannot start: it needs "
        r"352 MiB before it holds any row; write '1GiB' or more$"
    )
    with pytest.raises(ConfigError, match=message):
        cluster(**{**SLURM, "memory": size})
    if size != "1":  # of a local worker that is all of this machine's memory
        with pytest.raises(ConfigError, match=message):
            cluster(kind="local", memory_limit=size)


def test_enough_memory_for_a_worker_is_accepted() -> None:
    assert cluster(**{**SLURM, "memory": "352MiB"}).memory == "352MiB"
    assert cluster(kind="local", memory_limit="369098752").memory_limit == "369098752"


@pytest.mark.parametrize("limit", ["auto", "0.1"])
def test_a_part_of_a_small_machine_is_refused_before_a_worker_starts(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(distributed.system, "MEMORY_LIMIT", 300 << 20)
    message = rf"^cluster\.memory_limit = '{limit}': a worker of \d+ MiB cannot start: it needs 352"
    with pytest.raises(ConfigError, match=message):
        opened(LocalProcesses(kind="local", memory_limit=limit, threads_per_worker=64))


def test_slurm_job_scripts_hold_no_directory_of_several_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys of TLS lie in the current directory, and the job's command names them."""
    monkeypatch.setitem(sys.modules, "dask_jobqueue", types.SimpleNamespace(SLURMCluster=None))
    for name in ("a b", "a;id", "$(id)", "a\nb"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with pytest.raises(ConfigError, match="becomes part of a job script"):
            opened(SlurmJobs(**SLURM))


def test_an_address_in_a_scheduler_file_has_the_same_form(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://127.0.0.1\\n:1"}')
    with pytest.raises(ClusterError, match=r"no scheduler address in .*ValidationError"):
        opened(SchedulerFile(kind="scheduler_file", path=str(file), deadlines=NOW))


def test_slurm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ConfigError, match=r"pip install 'gmm-dask\[slurm\]'"):
        opened(SlurmJobs(kind="slurm", jobs=2, cores=1, memory="1GiB"))


def test_facts_differ_in_what_decides_the_bits() -> None:
    facts = collect_facts()
    assert facts.unlike(collect_facts()) == ""
    here = replace(facts, features="+avx512f,+sse2")
    worker = replace(facts, numpy="1.26.4", features="-avx512f,+sse2")
    difference = f"numpy 1.26.4, here {here.numpy}; CPU features differ in avx512f"
    assert worker.unlike(here) == difference


def test_a_host_is_on_this_machine_only_if_all_its_addresses_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def both_addresses(host: str, port: None) -> list[Any]:
        return [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(kinds.socket, "getaddrinfo", both_addresses)
    with pytest.raises(ConfigError, match="is not on this machine"):
        opened(RunningScheduler(kind="address", address="two-faced:1", deadlines=NOW))
