"""How commands are told what to do: variables and options."""

PREFIX = "TOKENRELAY_BENCH_"  # make puts it before what stands on its command line
