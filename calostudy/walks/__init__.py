"""The kinds of walk that notebooks take, by name."""

from calostudy.walks.answers import AnswersWalk
from calostudy.walks.comparison import ComparisonWalk
from calostudy.walks.dataset import DatasetWalk
from calostudy.walks.evaluations import EvaluationsWalk
from calostudy.walks.forms import other_forms
from calostudy.walks.growth import GrowthWalk
from calostudy.walks.hardware import HardwareWalk
from calostudy.walks.leaderboard import LeaderboardWalk
from calostudy.walks.lesson import LessonWalk
from calostudy.walks.model import ModelWalk
from calostudy.walks.power import PowerWalk
from calostudy.walks.precisions import PrecisionsWalk
from calostudy.walks.ranking import RankingWalk
from calostudy.walks.segmentations import SegmentationsWalk
from calostudy.walks.shower import ShowerWalk
from calostudy.walks.student import StudentWalk
from calostudy.walks.tables import TablesWalk
from calostudy.walks.walk import Walk, low_middle_high

WALKS: dict[str, type[Walk]] = {
    walk.kind: walk
    for walk in (
        DatasetWalk,
        ModelWalk,
        HardwareWalk,
        PowerWalk,
        StudentWalk,
        EvaluationsWalk,
        ComparisonWalk,
        RankingWalk,
        SegmentationsWalk,
        LeaderboardWalk,
        TablesWalk,
        ShowerWalk,
        LessonWalk,
        GrowthWalk,
        PrecisionsWalk,
    )
}
"""Kind of walk -> its class; the notebook of a kind is ``notebooks/<kind>.ipynb``."""

__all__ = [
    "WALKS",
    "AnswersWalk",
    "ComparisonWalk",
    "DatasetWalk",
    "EvaluationsWalk",
    "GrowthWalk",
    "HardwareWalk",
    "LeaderboardWalk",
    "LessonWalk",
    "ModelWalk",
    "PowerWalk",
    "PrecisionsWalk",
    "RankingWalk",
    "SegmentationsWalk",
    "ShowerWalk",
    "StudentWalk",
    "TablesWalk",
    "Walk",
    "low_middle_high",
    "other_forms",
]
