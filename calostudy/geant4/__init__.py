"""The reference simulation: real Geant4 showers, from wheels alone.

`simulate` is all that the rest of the project needs; Geant4 itself is imported in worker processes
only, so this package can be imported without it.
"""

from calostudy.geant4.production import clouds_path, sidecar_path, simulate
from calostudy.geant4.setups import BREMSSTRAHLUNG, PHYSICS, SETUPS

__all__ = ["BREMSSTRAHLUNG", "PHYSICS", "SETUPS", "clouds_path", "sidecar_path", "simulate"]
