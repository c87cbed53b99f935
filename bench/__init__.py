"""Measures the dataplane through the same doors that its users take: executables, commands and packets.

    scenarios/      one question each: what it puts side by side, and which figures it draws from that
    hosts/          what stands on a host before anything is measured; place.py: hosts, made of namespaces
    peers/          whoever is compared with; cni.py: calls as runtimes make them
    instruments/    what measures; native.py and native/: the part of it in C
    figures/        from samples to rows, plots and answers
    report/         from all of them to what is read; drawing/: its pictures
    running.py      one scenario after the other; progress.py: what is told meanwhile; machine.py: on what

``dpctl bench list``, ``packet``, ``rules``, ``cni``, ``compare``; bench/README.md has the method, and the commands.
"""
