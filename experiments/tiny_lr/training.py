"""A tiny Llama trained by Marin: `train(config)` is the step, as any of Marin's own training steps.

It takes a CPU, no network and no account. Levanter's numbers go to eval_results.json in the step's output.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from fray.types import ResourceConfig
from levanter.callbacks.watch import WatchConfig
from levanter.data.text.datasets import DatasetComponent, LmDataConfig, UrlDatasetSourceConfig
from levanter.main.train_lm import TrainLmConfig
from levanter.models.llama import LlamaConfig
from levanter.optim.config import AdamConfig
from levanter.tracker.json_file import JsonFileTrackerConfig
from levanter.trainer import DEFAULT_JAX_CONFIG, TrainerConfig
from marin.training.training import TrainLmOnPodConfig, run_levanter_train_lm
from research_steps import Step

from experiments.tiny_lr.config import TinyLr
from experiments.tiny_lr.text import write_text

if find_spec("marin.execution.lazy") is not None:
    from marin.execution.lazy import ArtifactStep
    from marin.training.training import LevanterCheckpoint
    from rigging.filesystem.cluster_config import marin_temp_bucket

    def train(config: TinyLr) -> Step:
        """The step that trains it and evaluates it at its end."""

        def build_config(context: Any) -> TrainLmOnPodConfig:
            return _configuration(config, lambda name: f"{context.output_path}/{name}" if name else context.output_path)

        return ArtifactStep("tiny_lr/train", "2026.11.30", LevanterCheckpoint, train_on_sums, build_config)

else:
    from marin.execution.types import ExecutorStep, this_output_path
    from rigging.filesystem import marin_temp_bucket

    def train(config: TinyLr) -> Step:
        """The step that trains it and evaluates it at its end."""
        return ExecutorStep(name="tiny_lr/train", fn=train_on_sums, config=_configuration(config, this_output_path))


def _configuration(config: TinyLr, output: Callable[[str | None], Any]) -> TrainLmOnPodConfig:
    """What is trained; `output` gives the step's output path, or one below it."""
    tokenizer = output("tokenizer")
    sums = UrlDatasetSourceConfig(train_urls=[output("train.jsonl")], validation_urls=[output("validation.jsonl")])
    train_config = TrainLmConfig(
        data=LmDataConfig(
            tokenizer=tokenizer,
            cache_dir=output("cache"),
            components={"sums": DatasetComponent(source=sums)},
            shuffle=True,
        ),
        model=LlamaConfig(
            max_seq_len=64,
            hidden_dim=config.hidden_dim,
            intermediate_dim=2 * config.hidden_dim,
            num_layers=2,
            num_heads=2,
            num_kv_heads=2,
            tokenizer=tokenizer,
        ),
        optimizer=AdamConfig(learning_rate=config.learning_rate, warmup=0.1),
        trainer=TrainerConfig(
            seed=config.seed,
            train_batch_size=16,
            num_train_steps=config.steps,
            steps_per_eval=config.steps_per_eval,
            tracker=JsonFileTrackerConfig(output_path=output(None)),
            log_dir=output("logs"),
            # A loss that is no number is a result, which the record says.
            crash_on_nan=False,
            crash_on_inf=False,
            # All trials run the same few programs, which take longer to compile than to train.
            jax_compilation_cache_dir=_compilation_cache(),
            jax_config={**DEFAULT_JAX_CONFIG, "jax_persistent_cache_min_compile_time_secs": 0.0},
            watch=WatchConfig(watch_targets=[]),
            log_jaxprs=False,
            log_xla_hlo=False,
        ),
        hf_save_steps=None,
    )
    return TrainLmOnPodConfig(
        train_config=train_config,
        resources=ResourceConfig.with_cpu(),
        output_path=output(None),
        auto_build_caches=True,
    )


def _compilation_cache() -> str:
    return str(marin_temp_bucket(30, "compilation-cache")).removeprefix("file://")


def train_on_sums(config: TrainLmOnPodConfig) -> None:
    write_text(str(config.output_path))
    run_levanter_train_lm(config)
