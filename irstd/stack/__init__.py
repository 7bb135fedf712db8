"""The local stack: Prefect's server and worker, MLflow's server and a Ray head, on this machine's loopback.

`up` starts them and waits until each answers, `down` stops exactly those, `status` looks. What runs is recorded in the
workspace's `stack.json`, from which every command takes its addresses.
"""

from irstd.stack.control import down, status, up
from irstd.stack.services import Service, services

__all__ = ["Service", "down", "services", "status", "up"]
