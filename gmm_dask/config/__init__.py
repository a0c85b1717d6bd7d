"""Run files and cluster files: what they may say, checked before anything is read.

A run file says *what* to do (``[input] [model] [select] [fit] [retrain] [predict] [output]``), a
cluster file says *where*. A key has scikit-learn's name if it has one there. An unknown key is
refused, and the message gives its dotted path.
"""

from gmm_dask.config.cluster_file import (
    ClusterConfig,
    ClusterKind,
    Deadlines,
    LocalProcesses,
    RunningScheduler,
    SchedulerFile,
    SlurmJobs,
    ThreadsCluster,
    TlsSection,
)
from gmm_dask.config.fit_sections import FitSection, ModelSection, RetrainSection, SelectSection
from gmm_dask.config.input_section import InputSection
from gmm_dask.config.labels_section import LabelsSection
from gmm_dask.config.output_sections import KeepSection, OutputSection, PredictSection
from gmm_dask.config.reading import check_config, read_config
from gmm_dask.config.run_file import RunConfig

__all__ = [
    "ClusterConfig",
    "ClusterKind",
    "Deadlines",
    "FitSection",
    "InputSection",
    "KeepSection",
    "LabelsSection",
    "LocalProcesses",
    "ModelSection",
    "OutputSection",
    "PredictSection",
    "RetrainSection",
    "RunConfig",
    "RunningScheduler",
    "SchedulerFile",
    "SelectSection",
    "SlurmJobs",
    "ThreadsCluster",
    "TlsSection",
    "check_config",
    "read_config",
]
