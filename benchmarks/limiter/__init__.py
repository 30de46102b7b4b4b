"""How much of a paid limit a client uses, and at how many 429s, on servers that count in every way there is.

    python -m benchmarks.limiter [--seeds 1000:1010] [--cells steady-50 ...] [--policies batchrun ...]

Everything happens in virtual time. One event queue (`timers`) carries the requests of a client to a server and the answers
back (`network`); what comes of it is read off the list of sends (`measures`) and beside what a client could have done that
knew the server's state (`clairvoyant`).

- `servers`: the ways to count requests and tokens. The windows are those of the embedded platform, and their tests.
- `workloads`: files of jobs. `cells`: which file meets which server, under which strain.
- `ours`: the admission, queue, estimates and budget of a run, unchanged. `peers`, `adaptive` and `aio`: what others do;
  `crowd` sends a file by their rules.
- `together`: four of ours on one account, one of them killed, beside one alone.
- `sweep`: all cells, clients and seeds, in several processes. `cost`: what an admission takes of the CPU.
- `goals`: the figures that the limiter is held to. `tables`: all of it as text.

Seeds 1000 to 1009 are kept for the proof: nothing is tuned on them. Whoever changes a constant tries it on others (0:10).
All of it takes about forty minutes of CPU; `--policies batchrun` six, `--record FILE` lets it be done in parts.

What flatters or hurts: nobody's clock drifts, no connection breaks, prompts are guessed right, and a strain begins and ends at
once. On a sliding log that is halved, nothing at all fits for the first half minute: 96.7 % of what is left is the most that
anybody could use of that quarter of an hour.
"""
