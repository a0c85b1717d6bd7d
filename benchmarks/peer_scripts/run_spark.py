"""Passes of Spark's ``pyspark.ml.clustering.GaussianMixture``, for ``peers.py``.

It cannot begin at a given start; what an iteration takes does not depend on it. The rows are read
from Parquet and kept in memory as vectors.
"""

import psutil
from passes import arguments, load_start, serve
from pyspark.ml.clustering import GaussianMixture
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession

options = arguments()
java = "-XX:UseAVX=2" if options.avx2 else ""
spark = (
    SparkSession.builder.master(f"local[{options.threads}]")
    .config("spark.driver.memory", "6g")
    .config("spark.driver.extraJavaOptions", java)
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
table = spark.read.parquet(str(options.directory / "rows.parquet"))
vectors = VectorAssembler(inputCols=table.columns, outputCol="features").transform(table)
rows = vectors.select("features").repartition(options.threads).persist()
rows.count()
k = len(load_start(options.directory)[0])
java_process = psutil.Process().children(recursive=True)[0]


def fit(iterations: int) -> None:
    GaussianMixture(k=k, tol=0.0, maxIter=iterations, seed=0).fit(rows)


def cpu_clock() -> float:
    used = java_process.cpu_times()
    return used.user + used.system


serve(fit, ["pyspark"], "AVX2" if options.avx2 else "", cpu_clock)
