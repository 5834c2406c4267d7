"""What a replay changed: its outputs beside those of live, or of another run, request by request.

``making`` leads it: ``reading`` gathers what both sides said into a file on disk (``store``), ``compare`` looks at each
pair, ``report`` sums them up, ``page`` draws that, and ``gate`` says whether it is good enough.
"""
