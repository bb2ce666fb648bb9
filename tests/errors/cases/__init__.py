"""Bad input, one row per case, one file per step."""

from tests.errors.cases.calibration import CALIBRATION
from tests.errors.cases.file import LOAD, SAVE
from tests.errors.cases.knife import REMOVE, VERIFY
from tests.errors.cases.plan import PLAN, PLAN_JSON, PLAN_UNITS
from tests.errors.cases.score import MEASURE, PRUNE, SCORES
from tests.errors.cases.sparse import SPARSE
from tests.errors.cases.trace import TRACE

CASES = [
    *TRACE,
    *PLAN,
    *PLAN_UNITS,
    *PLAN_JSON,
    *SCORES,
    *REMOVE,
    *VERIFY,
    *SAVE,
    *LOAD,
    *MEASURE,
    *PRUNE,
    *CALIBRATION,
    *SPARSE,
]
