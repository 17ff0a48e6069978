"""The tree against the kernel's other witnesses, while real work runs.

Two independent witnesses say what was so: /proc, read again and again (`rows`), and the process
connector of netlink together with the kernel's own count of forks (`connector`, `forkcount`).
Nothing here shares code with what it judges. A difference is explained by what the kernel is known
to do, with the explanation counted and shown (`reasons`, `ledger`), or it is a failure.
"""
