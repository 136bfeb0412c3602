import sys

from tests.benchmarks.measure import main

sys.exit(main(sys.argv[1:]))
