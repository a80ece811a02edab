"""The verbs of the command line: what each takes, calls and prints. Heavy imports stay inside them, so that --help
answers at once."""

from simtoreal.verbs import judge, learn, leave, look
from simtoreal.verbs.verb import ONE_LINE

VERBS = (*look.VERBS, *learn.VERBS, *leave.VERBS, *judge.VERBS)

__all__ = ["ONE_LINE", "VERBS"]
