"""Files and commands that start a simulated configuration on real machines; one module per target.

Names of flags are checked against tables of the frameworks' own (`names.py`); what a framework cannot be told is a
remark.
"""

from simserve.report.launch.folder import FRAMEWORKS, launch_files, launch_lines, launch_script
from simserve.report.launch.framework import nothing_to_launch
from simserve.report.launch.served import Served, served_model
from simserve.report.launch.vllm import serve_command

__all__ = [
    "FRAMEWORKS", "Served", "launch_files", "launch_lines", "launch_script", "nothing_to_launch", "serve_command",
    "served_model",
]  # fmt: skip
