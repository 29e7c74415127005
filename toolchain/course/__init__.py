"""From bytes to 北京: twelve projects, and a grader that says what differs and never shows the answer.

===================  ==================================================================================================
:mod:`.project`      what a project is: inputs made from a seed, the answer of the real thing, likely mistakes
:mod:`.tasks`        the projects, a file each
:mod:`.projects`     their list
:mod:`.differences`  how an output is compared: lines, numbers, blocks; words that name the place
:mod:`.arrays`       numbers as text, for the projects that need no container
:mod:`.backend`      the reference arithmetic on such numbers
:mod:`.grading`      a person's command, run on inputs that nobody has seen before
:mod:`.starting`     the directory to begin in
===================  ==================================================================================================

The pages are in ``docs/course``.
"""
