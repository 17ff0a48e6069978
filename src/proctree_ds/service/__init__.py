"""What a run needs that goes on for months: figures to look at, a pulse, and few rights."""
