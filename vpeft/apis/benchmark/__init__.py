"""Many runs: a plan, engines that work it off, results, and the statistics that are drawn from them."""
