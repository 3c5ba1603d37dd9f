"""What can go wrong when weights are brought to a host."""

from agents.runtimes.base import RuntimeFault


class WeightsFault(RuntimeFault):
    """Weights could not be brought: `weights_missing`, `weights_checksum` or `disk_full`."""
