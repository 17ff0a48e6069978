"""The smallest signature of use: who started this shell?

proctree-detect --no-builtin --signatures examples/signatures
"""

from proctree_ds import EventSelector, Finding, Signature, SignatureMetadata


class HelloLineage(Signature):
    """Says of every shell who its ancestors were."""

    metadata = SignatureMetadata(
        id="EX-HELLO-LINEAGE",
        version="1",
        name="A shell, and where it comes from",
        description="A shell was started; the data lists its ancestors.",
        severity="info",
    )
    selectors = (EventSelector(event="exec"),)

    def init(self, context):
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event):
        if event.program not in ("sh", "bash", "dash", "zsh"):
            return None
        lineage = self.tree.lineage(event.process_entity_id, event.time)
        return Finding(data={"ancestors": [info.name for info in lineage[1:]]})
