"""Physics lists.

``data-free`` (default) needs no official data set. Electromagnetic part, after
G4EmStandardPhysics (option 0): gamma: photoelectric effect from the Sandia table, Klein-Nishina
Compton scattering, Bethe-Heitler conversion with LPM; e+-: Urban multiple scattering below
100 MeV, Wentzel-VI with single Coulomb scattering above, Moller-Bhabha ionisation,
bremsstrahlung, annihilation. Hadronic part (for pi+ only): Glauber-Gribov and BGG cross
sections, FTFP string model above 3 GeV and Bertini cascade below, decays, capture at rest.
Absent: Rayleigh scattering, fluorescence, photonuclear reactions, neutron capture, discrete
nuclear levels, inelastic reactions of ions. It is therefore not stock FTFP_BERT.

Bremsstrahlung: ``rel`` (default) uses the Bethe-Heitler model with LPM and Coulomb corrections at
every energy; ``sb`` uses Seltzer-Berger tables below 1 GeV as stock Geant4 does. The tables that
can be had without the official data set come from a package that states no licence; a sample that
everybody can make again, and that may be shipped, must not depend on it. The price of ``rel`` is a
visible fraction shifted by 1-2 % (measured in data/measured/geant4_physics.csv).

``ftfp_bert`` and ``em-option4`` are Geant4's own lists (the second is FTFP_BERT with
G4EmStandardPhysics_option4); they need the official data sets.
"""

from __future__ import annotations

from calostudy.geant4.bridge import (
    BOOL,
    DOUBLE,
    INT,
    POINTER,
    g4,
    int_vector,
    method,
    new,
    particle,
    set_limits,
    static,
    string,
)

_ELECTROMAGNETIC = 2  # G4ProcessType fElectromagnetic
_MSC_LIMIT = 100.0  # MeV, G4EmParameters::MscEnergyLimit
_NAMED, _TYPED = "RK8G4String", "RK8G4String13G4ProcessType"  # mangled constructor arguments


def _register(process: int, definition: int) -> None:
    helper = static("G4PhysicsListHelper", "GetPhysicsListHelper", "v")
    arguments = (process, definition)
    signature = "P10G4VProcessP20G4ParticleDefinition"
    if not method(
        helper, "G4PhysicsListHelper", "RegisterProcess", signature, *arguments, result=BOOL
    ):
        raise RuntimeError("Geant4 refused a process of the data-free physics list")


def _set_model(base: str, process: int, model: int) -> None:
    method(process, base, "SetEmModel", "P10G4VEmModeli", model, 0, types=[POINTER, INT])


def _named(cls: str, name: str) -> int:
    return new(cls, _NAMED, string(name))


def _discrete(cls: str, name: str) -> int:
    return new(cls, _TYPED, string(name), _ELECTROMAGNETIC, types=[POINTER, INT])


def _gamma_processes() -> None:
    gamma = particle("G4Gamma", "Gamma")
    photoelectric = _discrete("G4PhotoElectricEffect", "phot")
    _set_model("G4VEmProcess", photoelectric, _named("G4PEEffectFluoModel", "PhotoElectric"))
    _register(photoelectric, gamma)
    _register(_discrete("G4ComptonScattering", "compt"), gamma)
    _register(_discrete("G4GammaConversion", "conv"), gamma)


def _scattering(definition: int) -> int:
    """Multiple scattering of e+-; returns the single-scattering process, to be registered last."""
    urban = _named("G4UrbanMscModel", "UrbanMsc")
    set_limits(urban, high=_MSC_LIMIT)
    wentzel = new(
        "G4WentzelVIModel", "bRK8G4String", True, string("WentzelVIUni"), types=[BOOL, POINTER]
    )
    set_limits(wentzel, low=_MSC_LIMIT)
    signature = "P11G4VMscModelS1_P20G4ParticleDefinition"
    static(
        "G4EmBuilder",
        "ConstructElectronMscProcess",
        signature,
        urban,
        wentzel,
        definition,
        result=None,
    )
    single = new("G4CoulombScattering", "b", True, types=[BOOL])
    model = new("G4eCoulombScatteringModel", "b", True, types=[BOOL])
    _set_model("G4VEmProcess", single, model)
    method(single, "G4VEmProcess", "SetMinKinEnergy", "d", _MSC_LIMIT, types=[DOUBLE])
    set_limits(model, low=_MSC_LIMIT, active_low=_MSC_LIMIT)
    return single


def _electron_processes(definition: int, brem: str) -> None:
    single = _scattering(definition)
    _register(_named("G4eIonisation", "eIoni"), definition)
    bremsstrahlung = _named("G4eBremsstrahlung", "eBrem")
    if brem == "rel":
        signature = "PK20G4ParticleDefinitionRK8G4String"
        model = new("G4eBremsstrahlungRelModel", signature, None, string("eBremRelLow"))
        _set_model("G4VEnergyLossProcess", bremsstrahlung, model)
    _register(bremsstrahlung, definition)
    _register(single, definition)


def _heavy_processes(hadronic: bool) -> None:
    """Ions and protons (recoils of single scattering), and all charged hadrons where asked for."""
    ion, proton = particle("G4GenericIon", "GenericIon"), particle("G4Proton", "Proton")
    scattering = _named("G4hMultipleScattering", "ionmsc")
    _register(scattering, ion)
    _register(_named("G4ionIonisation", "ionIoni"), ion)
    if hadronic:
        signature, types = "P21G4hMultipleScatteringP17G4NuclearStoppingb", [POINTER, POINTER, BOOL]
        arguments = (scattering, None, True)
        static("G4EmBuilder", "ConstructCharged", signature, *arguments, types=types, result=None)
    else:
        _register(_named("G4hMultipleScattering", "msc"), proton)
        _register(_named("G4hIonisation", "hIoni"), proton)


class DataFreeElectromagnetic(g4.G4VPhysicsConstructor):
    """G4EmStandardPhysics without Rayleigh scattering, on models that read no data file."""

    def __init__(self, brem: str, hadronic: bool):
        super().__init__("DataFreeElectromagnetic")
        self.brem, self.hadronic = brem, hadronic

    def ConstructParticle(self):
        leptons = ("Gamma", "Electron", "Positron")
        for name in (*leptons, "Proton", "GenericIon", "Alpha", "Deuteron", "Triton", "He3"):
            getattr(getattr(g4, f"G4{name}"), name)()

    def ConstructProcess(self):
        _gamma_processes()
        positron = particle("G4Positron", "Positron")
        for definition in (particle("G4Electron", "Electron"), positron):
            _electron_processes(definition, self.brem)
        _heavy_processes(self.hadronic)
        _register(_named("G4eplusAnnihilation", "annihil"), positron)


class DataFreeHadronic(g4.G4VPhysicsConstructor):
    """FTFP_BERT's models and cross sections, less those that read data files."""

    _MAIN = (211, -211, 2212, 2112, 321, -321, 130, 310)  # PDG codes
    _BGG = (
        ("G4PionPlus", "PionPlus", "Pion"),
        ("G4PionMinus", "PionMinus", "Pion"),
        ("G4Proton", "Proton", "Nucleon"),
        ("G4Neutron", "Neutron", "Nucleon"),
    )

    def __init__(self):
        super().__init__("DataFreeHadronic")

    def ConstructParticle(self):
        """Decay physics constructs every particle."""

    def ConstructProcess(self):
        codes, inelastic = "RKSt6vectorIiSaIiEE", "RKSt6vectorIiSaIiEEbRK8G4String"

        def build(name: str, signature: str, *arguments, types=None):
            static("G4HadronicBuilder", name, signature, *arguments, types=types, result=None)

        types = [POINTER, BOOL, POINTER]
        glauber, antinuclei = string("Glauber-Gribov"), string("AntiAGlauber")
        build("BuildFTFP_BERT", inelastic, int_vector([*self._MAIN]), True, glauber, types=types)
        build(
            "BuildFTFP_BERT", inelastic, int_vector([-2212, -2112]), False, antinuclei, types=types
        )
        build("BuildElastic", codes, int_vector([*self._MAIN, -2212]))
        build("BuildHyperonsFTFP_BERT", "v")
        for cls, name, family in self._BGG:
            definition = particle(cls, name)
            for kind in ("Inelastic", "Elastic"):
                section = new(f"G4BGG{family}{kind}XS", "PK20G4ParticleDefinition", definition)
                signature = "PK20G4ParticleDefinitionP22G4VCrossSectionDataSet"
                add = f"Add{kind}CrossSection"
                static("G4HadProcesses", add, signature, definition, section, result=BOOL)


class DataFreeList(g4.G4VModularPhysicsList):
    """The default list; the hadronic part only where the primary is a hadron."""

    def __init__(self, brem: str, hadronic: bool):
        super().__init__()
        self.parts = [DataFreeElectromagnetic(brem, hadronic)]  # Python must keep them alive
        if hadronic:
            self.parts += [
                g4.G4DecayPhysics(),
                DataFreeHadronic(),
                g4.G4StoppingPhysics(),
                g4.G4NeutronTrackingCut(),
            ]
        for part in self.parts:
            self.RegisterPhysics(part)


class FTFPBertOption4(g4.G4VModularPhysicsList):
    """FTFP_BERT's own parts, with option 4 in the place of its electromagnetic one.

    (The bindings do not offer G4VModularPhysicsList::ReplacePhysics.)
    """

    def __init__(self):
        super().__init__()
        self.parts = [
            g4.G4EmStandardPhysics_option4(),
            g4.G4EmExtraPhysics(),
            g4.G4DecayPhysics(),
            g4.G4HadronElasticPhysics(),
            g4.G4HadronPhysicsFTFP_BERT(),
            g4.G4StoppingPhysics(),
            g4.G4IonPhysics(),
            g4.G4NeutronTrackingCut(),
        ]
        for part in self.parts:
            self.RegisterPhysics(part)


_LISTS = {
    "data-free": DataFreeList,
    "ftfp_bert": lambda brem, hadronic: g4.FTFP_BERT(),
    "em-option4": lambda brem, hadronic: FTFPBertOption4(),
}


def physics_list(name: str, brem: str, hadronic: bool, cut: float):
    """A G4VModularPhysicsList with the production cut ``cut`` in mm."""
    physics = _LISTS[name](brem, hadronic)
    physics.SetVerboseLevel(0)
    physics.SetDefaultCutValue(cut * g4.mm)
    return physics
