"""The entries of the catalogue of data sets; :mod:`calostudy.datasets` reads their showers.

Public files are named with checksums but never shipped; what is shipped are showers of the study's
own simulation, the "twin" of a public data set, which is never called by the public name.
Checksums and sizes were taken from public pointers to the files; None stands where none was found.
"""

from dataclasses import dataclass, field

from calostudy.calorimeter import Calorimeter, calorimeter
from calostudy.energies import GEV, EnergyLaw
from calostudy.errors import UsageError


@dataclass(frozen=True)
class PublicFile:
    """A file of a public record.

    Attributes:
        name, url: its name and where it is downloaded; the URL is None where only the record's
            page is known.
        split: "train" or "evaluation", or None where one file is for both.
        events: showers in it.
        md5, bytes: checksum and size. None, as for events, where they are not known.
        clouds: whether it holds point clouds (`calostudy.clouds`), not cells.
        note: what else one must know to get it.
    """

    name: str
    url: str | None
    split: str | None
    events: int | None
    md5: str | None = None
    bytes: int | None = None
    clouds: bool = False
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """One data set of the study.

    Attributes:
        name: the study's name for it.
        title: one line of prose.
        particle: "e+", "e-", "gamma" or "pi+".
        calorimeter: where its showers are.
        energies: law of the incident energies of the public sample.
        threshold: minimum energy of a cell in MeV; what is strictly below counts as zero.
        public_name: the public sample's name.
        record, licence: DOI and licence of the public record, or of the paper where the showers
            themselves were not published.
        public_files: its files; none where the showers were not published.
        twin_name: name of the simulated twin, or None if the study simulates none.
        twin_energies: law of the twin's incident energies, or None.
        twin_events: showers that the repository ships, by split.
        classifier_split: showers for training, testing and validating a classifier on one
            public file (CaloChallenge), or None.
        references: papers, as "authors, title, arXiv number".
    """

    name: str
    title: str
    particle: str
    calorimeter: Calorimeter = field(repr=False)
    energies: EnergyLaw
    threshold: float
    public_name: str
    record: str
    licence: str | None
    public_files: tuple[PublicFile, ...] = field(repr=False)
    twin_name: str | None = None
    twin_energies: EnergyLaw | None = None
    twin_events: dict[str, int] = field(default_factory=dict)
    classifier_split: tuple[int, int, int] | None = None
    references: tuple[str, ...] = field(default=(), repr=False)

    def law(self, source: str = "simulated") -> EnergyLaw:
        """Law of the incident energies of the public or the simulated sample.

        Raises:
            UsageError: there is no twin.
        """
        if source == "public":
            return self.energies
        if self.twin_energies is None:
            raise UsageError(f"{self.name}: the study has no simulated twin; source='public'")
        return self.twin_energies

    def title_of(self, source: str) -> str:
        """The name that a sample of this source must go by: the public one or the twin's."""
        return self.public_name if source == "public" else self.twin_name or "no twin"


def _powers_of_two(weights: tuple[int, ...]) -> EnergyLaw:
    """2^8, 2^9, ... MeV, so many showers of each."""
    values = tuple(float(2**k) for k in range(8, 8 + len(weights)))
    return EnergyLaw("discrete", values[0], values[-1], values, weights)


def _zenodo(record: int, *files: tuple) -> tuple[PublicFile, ...]:
    base = f"https://zenodo.org/records/{record}/files"
    return tuple(PublicFile(name, f"{base}/{name}", *rest) for name, *rest in files)


_CHALLENGE = (
    "C. Krause et al., CaloChallenge 2022: A Community Challenge for Fast Calorimeter Simulation, "
    "arXiv:2410.21611"
)
_CALOGAN_PAPER = (
    "M. Paganini, L. de Oliveira, B. Nachman, CaloGAN: Simulating 3D high energy particle showers "
    "in multilayer electromagnetic calorimeters with generative adversarial networks, "
    "arXiv:1712.10321"
)
_CALOFLOW = (
    "C. Krause, D. Shih, CaloFlow: Fast and Accurate Generation of Calorimeter Showers with "
    "Normalizing Flows, arXiv:2106.05285"
)
_ATLAS = (
    "ATLAS Collaboration, AtlFast3: the next generation of fast simulation in ATLAS, "
    "arXiv:2109.02551"
)

_GETTING_HIGH = "the photon file of the record (keys energy, layers), under this name"
_CALOCLOUDS = (
    "a member of CaloCloudsData.tar.xz (15 GB, 60 GB unpacked) of doi:10.5281/zenodo.10044175"
)

_WIDE = EnergyLaw("log-uniform", 1 * GEV, 1000 * GEV)
_NARROW = EnergyLaw("log-uniform", 1 * GEV, 100 * GEV)
_CALOGAN_LAW = EnergyLaw("uniform", 1 * GEV, 100 * GEV)
_READOUT = 0.5e-3 / 0.033  # 0.5 keV in the silicon over the sampling fraction
_FLAT = (10000,) * 11
_EPLUS_URL = (
    "https://data.mendeley.com/public-files/datasets/pvn3xc3wy5/files/"
    "82030895-c680-432d-ac68-a6f2c8ed2641/file_downloaded"
)


def _ds1(particle: str, word: str, weights, split, files, events: dict[str, int]) -> Dataset:
    return Dataset(
        name=f"ds1-{word}",
        title=f"CaloChallenge dataset 1: {word} in a simulation of the ATLAS calorimeter",
        particle=particle,
        calorimeter=calorimeter(f"ds1-{word}"),
        energies=_powers_of_two(weights),
        threshold=1.0,
        public_name=f"CaloChallenge dataset 1 {word}",
        record="10.5281/zenodo.8099322",
        licence="CC-BY-4.0",
        public_files=_zenodo(8099322, *files),
        twin_name=f"DS1-like {word}",
        twin_energies=_powers_of_two((1,) * 9),
        twin_events=events,
        classifier_split=split,
        references=(_CHALLENGE, _ATLAS),
    )


def _calogan(name: str, particle: str, url: str | None, events: dict[str, int]) -> Dataset:
    return Dataset(
        name=f"calogan-{name}",
        title=f"CaloGAN: {particle} in three layers of lead and liquid argon",
        particle=particle,
        calorimeter=calorimeter("calogan"),
        energies=_CALOGAN_LAW,
        threshold=0.001,
        public_name=f"CaloGAN {particle}",
        record="10.17632/pvn3xc3wy5.1",
        licence="CC-BY-4.0",
        public_files=(PublicFile(f"{name}.hdf5", url, None, 100000),),
        twin_name=f"CaloGAN-like {particle}",
        twin_energies=_CALOGAN_LAW,
        twin_events=events,
        references=(_CALOGAN_PAPER, _CALOFLOW),
    )


_ALL = (
    _ds1(
        "gamma",
        "photons",
        (*_FLAT, 5000, 3000, 2000, 1000),
        (80000, 20000, 21000),
        (
            (
                "dataset_1_photons_1.hdf5",
                "train",
                121000,
                "005d2adeda7db034b388112661265656",
                173797023,
            ),
            ("dataset_1_photons_2.hdf5", "evaluation", 121000, "4767715ed56e99565fd9c67340661e70"),
        ),
        {"train": 5000, "evaluation": 5000},
    ),
    _ds1(
        "pi+",
        "pions",
        (*_FLAT[:10], 9800, 5000, 3000, 2000, 1000),
        (80000, 20000, 20800),
        (
            ("dataset_1_pions_1.hdf5", "train", 120800, "6a5f52722064a1bcd8a0bc002f16515d"),
            ("dataset_1_pions_2.hdf5", "evaluation", 120800, "fee7457b40127bc23c8ab909e2638ca0"),
        ),
        {"train": 5000, "evaluation": 5000},
    ),
    Dataset(
        name="ds2",
        title="CaloChallenge dataset 2: electrons in a silicon-tungsten cylinder",
        particle="e-",
        calorimeter=calorimeter("ds2"),
        energies=_WIDE,
        threshold=_READOUT,
        public_name="CaloChallenge dataset 2",
        record="10.5281/zenodo.6366271",
        licence="CC-BY-4.0",
        public_files=_zenodo(
            6366271,
            ("dataset_2_1.hdf5", "train", 100000, "e590333e9a2da51b258288d74bd8357a", 1356475617),
            (
                "dataset_2_2.hdf5",
                "evaluation",
                100000,
                "7a56fd68aa53ded37c2ac445694d9736",
                1366708391,
            ),
        ),
        twin_name="DS2-like",
        twin_energies=_NARROW,
        twin_events={"train": 3000, "evaluation": 2000},
        classifier_split=(60000, 20000, 20000),
        references=(_CHALLENGE,),
    ),
    Dataset(
        name="ds3",
        title="CaloChallenge dataset 3: electrons in a finely read silicon-tungsten cylinder",
        particle="e-",
        calorimeter=calorimeter("ds3"),
        energies=_WIDE,
        threshold=_READOUT,
        public_name="CaloChallenge dataset 3",
        record="10.5281/zenodo.6366324",
        licence=None,
        public_files=_zenodo(
            6366324,
            ("dataset_3_1.hdf5", "train", 50000, "d33f03418aa311b0965452fcbef1ff87"),
            ("dataset_3_2.hdf5", "train", 50000, "911dec2c40aafa64a07b7450b80881bf"),
            ("dataset_3_3.hdf5", "evaluation", 50000, "5ea62f6831a1821bb5035fafc9f030e8"),
            ("dataset_3_4.hdf5", "evaluation", 50000, "5e8d82e6a6c28c6914a3b602a1cfa299"),
        ),
        twin_name="DS3-like",
        twin_energies=_NARROW,
        twin_events={"train": 600, "evaluation": 1000},
        classifier_split=(60000, 20000, 20000),
        references=(_CHALLENGE,),
    ),
    _calogan("eplus", "e+", _EPLUS_URL, {"train": 10000, "evaluation": 5000}),
    _calogan("gamma", "gamma", None, {"train": 5000, "evaluation": 5000}),
    _calogan("piplus", "pi+", None, {"train": 5000, "evaluation": 5000}),
    Dataset(
        name="ild-photons",
        title="ILD: photons in 30 layers of silicon and tungsten, as a grid and as point clouds",
        particle="gamma",
        calorimeter=calorimeter("ild"),
        energies=EnergyLaw("uniform", 10 * GEV, 100 * GEV),
        threshold=0.1,  # half of what a minimum ionising particle leaves
        public_name="ILD photons",
        record="10.5281/zenodo.3826103",
        licence=None,
        public_files=(
            PublicFile("getting_high_photons.hdf5", None, None, 1000, note=_GETTING_HIGH),
            PublicFile(
                "10-90GeV_x36_grid_regular_524k_float32.hdf5",
                None,
                None,
                None,  # "about 524,000"
                clouds=True,
                note=_CALOCLOUDS,
            ),
        ),
        twin_name="ILD-like photons",
        twin_energies=EnergyLaw("uniform", 10 * GEV, 90 * GEV),
        twin_events={"train": 600, "evaluation": 1000},
        references=(
            "E. Buhmann et al., Getting High: High Fidelity Simulation of High Granularity "
            "Calorimeters with High Speed, arXiv:2005.05334",
            "E. Buhmann et al., CaloClouds II: Ultra-Fast Geometry-Independent Highly-Granular "
            "Calorimeter Simulation, arXiv:2309.05704",
        ),
    ),
    Dataset(
        name="segmentations",
        title="Segmentations: photons of 65 GeV in CaloGAN's detector, read in many ways",
        particle="gamma",
        calorimeter=calorimeter("segmentations"),
        energies=EnergyLaw("uniform", 65 * GEV, 65 * GEV),
        threshold=0.5,  # the paper rounds to whole MeV
        public_name="Geometry-aware photons",
        record="10.48550/arXiv.2212.08233",
        licence=None,
        public_files=(),
        twin_name="Segmentations-like",
        twin_energies=EnergyLaw("uniform", 65 * GEV, 65 * GEV),
        twin_events={"train": 1500, "evaluation": 1000},
        references=(
            "J. Liu, A. Ghosh, D. Smith, P. Baldi, D. Whiteson, Geometry-aware Autoregressive "
            "Models for Calorimeter Shower Simulations, arXiv:2212.08233",
        ),
    ),
)

DATASETS: dict[str, Dataset] = {entry.name: entry for entry in _ALL}
"""Every data set by name."""
