"""ToyWorld: a procedural world of coloured shapes that act, with its complete truth.

Four steps, one module each, without torch:

1. :mod:`.world` scripts a video (actors, timeline, sentences, per-frame tracks) from ``(seed, index)``;
2. :mod:`.render` draws the frames and encodes them as H.264;
3. :mod:`.formats` writes the annotations in the file formats of the real benchmarks;
4. :mod:`.generate` does all of it for a folder, on all cores, resumable.

:mod:`.annotators` stands in for the models that `groundzoo annotate grounded-captions` asks. This
module stays inert: nothing is imported until it is asked for.
"""
