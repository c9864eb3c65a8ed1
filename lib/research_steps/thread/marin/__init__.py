"""The binding to Marin, which everybody else takes from here. Another generation of Marin is another file beside
`executor_steps` with these names, and the choice between the two here.
"""

from research_steps.thread.marin.executor_steps import ExecutorPlan as ExecutorPlan
from research_steps.thread.marin.executor_steps import ExecutorStep as ExecutorStep
from research_steps.thread.marin.executor_steps import Recorded as Recorded
from research_steps.thread.marin.executor_steps import StepLock as StepLock
from research_steps.thread.marin.executor_steps import check as check
from research_steps.thread.marin.executor_steps import dispatch as dispatch
from research_steps.thread.marin.executor_steps import end_jobs as end_jobs
from research_steps.thread.marin.executor_steps import has_artifact as has_artifact
from research_steps.thread.marin.executor_steps import has_ended as has_ended
from research_steps.thread.marin.executor_steps import has_engine as has_engine
from research_steps.thread.marin.executor_steps import lock_of as lock_of
from research_steps.thread.marin.executor_steps import output_of as output_of
from research_steps.thread.marin.executor_steps import plan as plan
from research_steps.thread.marin.executor_steps import read_artifact as read_artifact
from research_steps.thread.marin.executor_steps import read_outputs as read_outputs
from research_steps.thread.marin.executor_steps import release as release
from research_steps.thread.marin.executor_steps import run_inside as run_inside
from research_steps.thread.marin.executor_steps import this_output_path as this_output_path
from research_steps.thread.marin.executor_steps import unwrap as unwrap
from research_steps.thread.marin.executor_steps import using as using
from research_steps.thread.marin.executor_steps import versioned as versioned
from research_steps.thread.marin.executor_steps import wrap as wrap
