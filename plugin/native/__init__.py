"""The executable that runtimes start, in C; how it is built, and what is installed where it was not.

*.c, shim.h    the program: shim.h says which file does what
build          compiles it, for the wheel and for a checkout that is installed in place
installed      the file that is installed: the program, or a script that starts plugin.shim
"""
