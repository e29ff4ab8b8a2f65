"""One video on many machines: the segments of a plan as tasks of a Ray cluster. The only package that imports Ray.

- `config`: where the workers run; `resources`: the connection, and how many segments run in parallel
- `scheduler`: which segment is processed next, as plain values without Ray
- `coordinator`: hands out segments, fills the journal, joins; `worker`: makes one segment
- `transfer`: what travels between the two

The coordinator (the process that was called) plans, hands out segments by the rules of `scheduler`, puts the results
into the journal of the output, and joins them. A worker gets the plan and the number of a segment, reads that
stretch of the source with the context it needs, and returns a whole file. A plan cannot move a frame, so the frames
equal those of a run on one machine, and so does the journal: the same command resumes it, with or without a cluster.

Segments travel in one of three ways: straight into the journal where the worker sees the coordinator's folder; through
a folder or URL that both see (`ClusterConfig.work`); else through Ray's object store, in chunks.
"""

from midframe.cluster.config import ClusterConfig
from midframe.cluster.coordinator import interpolate, plan_run
from midframe.cluster.resources import session

__all__ = ["ClusterConfig", "interpolate", "plan_run", "session"]
