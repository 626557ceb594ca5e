"""vine-env for Parsl: what a job's Python runs from lies on its nodes' own disks.

    from vine_env import VineSlurmProvider
    provider = VineSlurmProvider(vine_env="/shared/envs/ml", nodes_per_block=8, ...)

`VineSlurmProvider` is SlurmProvider with vine-env's options; `VineStaging` brings files
to tasks, and from task to task, by the nodes' own disks; `doctor` looks at a Parsl
configuration and says what keeps it from using vine-env well.
"""

from vine_env.doctor import Finding, doctor
from vine_env.provider import VineSlurmProvider
from vine_env.spec import Source, SpecError, parse_data, parse_spec
from vine_env.staging import LostFileError, StagingError, VineStaging

__version__ = "0.1.0"
__all__ = [
    "Finding",
    "LostFileError",
    "Source",
    "SpecError",
    "StagingError",
    "VineSlurmProvider",
    "VineStaging",
    "doctor",
    "parse_data",
    "parse_spec",
]
