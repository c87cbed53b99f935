"""``dpctl config check``: what each key of a conflist does here, what cannot work, and which one entry does the same.

report        the answer: pure, from the text of a conflist
keys          each type's keys and what becomes of them: data, also for docs/compatibility.md
chainrules    what cannot work in a chain, whatever each plugin says for itself
singleentry   a chain as one entry
cli           the command
"""
