"""What torch allocates in a call."""

from torch.autograd.profiler import profile  # that of torch.profiler imports Inductor, which takes seconds


def allocated(call):
    """Bytes that torch allocates in a call, freed or not."""
    call()  # what is allocated once
    with profile(profile_memory=True) as profiled:
        kept = call()
    del kept
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    return sum(max(event.nbytes(), 0) for event in events)
