"""`python -m safety_proxy`."""

from safety_proxy.cli import main

main()
