"""A tiny Llama trained by Marin: `train(config)` is the `ExecutorStep`, as any of Marin's own training steps.

It takes a CPU, no network and no account. Levanter's numbers go to eval_results.json in the step's output.
"""

from fray import ResourceConfig
from levanter.callbacks.watch import WatchConfig
from levanter.data.text import DatasetComponent, LmDataConfig, UrlDatasetSourceConfig
from levanter.main.train_lm import TrainLmConfig
from levanter.models.llama import LlamaConfig
from levanter.optim import AdamConfig
from levanter.tracker.json_file import JsonFileTrackerConfig
from levanter.trainer import DEFAULT_JAX_CONFIG, TrainerConfig
from marin.execution.types import ExecutorStep, this_output_path
from marin.training.training import TrainLmOnPodConfig, run_levanter_train_lm
from rigging.filesystem import marin_temp_bucket

from experiments.tiny_lr.config import TinyLr
from experiments.tiny_lr.text import write_text


def train(config: TinyLr) -> ExecutorStep:
    """The step that trains it and evaluates it at its end."""
    tokenizer = this_output_path("tokenizer")
    sums = UrlDatasetSourceConfig(
        train_urls=[this_output_path("train.jsonl")], validation_urls=[this_output_path("validation.jsonl")]
    )
    train_config = TrainLmConfig(
        data=LmDataConfig(
            tokenizer=tokenizer,
            cache_dir=this_output_path("cache"),
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
            tracker=JsonFileTrackerConfig(output_path=this_output_path()),
            log_dir=this_output_path("logs"),
            # A loss that is no number is a result, which the record says.
            crash_on_nan=False,
            crash_on_inf=False,
            # All trials run the same few programs, which take longer to compile than to train.
            jax_compilation_cache_dir=marin_temp_bucket(30, "compilation-cache").removeprefix("file://"),
            jax_config={**DEFAULT_JAX_CONFIG, "jax_persistent_cache_min_compile_time_secs": 0.0},
            watch=WatchConfig(watch_targets=[]),
            log_jaxprs=False,
            log_xla_hlo=False,
        ),
        hf_save_steps=None,
    )
    return ExecutorStep(
        name="tiny_lr/train",
        fn=train_on_sums,
        config=TrainLmOnPodConfig(
            train_config=train_config,
            resources=ResourceConfig.with_cpu(),
            output_path=this_output_path(),
            auto_build_caches=True,
        ),
    )


def train_on_sums(config: TrainLmOnPodConfig) -> None:
    write_text(str(config.output_path))
    run_levanter_train_lm(config)
