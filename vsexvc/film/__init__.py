"""Colour whole films.

read        source, sequence, pictures, references, times, captions
choose      plan, propose, keyframes, compare, trust, page
make parts  job, takes, folder, parts, encode, cluster, redo
join        join, container, sound, rehearse
commands    render, pipe; vsview is for the previewer
"""
