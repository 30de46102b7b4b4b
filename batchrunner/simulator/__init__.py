"""The embedded platform: a server on loopback that imitates EmpirioLabs, deterministic from a seed.

    main      descriptors, signals, the ready line
    options   what can be said on its command line; account_options: of accounts
    server    HTTP/1.1 over any trio stream
    connection  a TCP connection as such a stream
    delivery  how an answer goes out: whole, cut, endless, withheld
    platform  what the platform decides about a request, free of sockets
    answers   what goes back: a reply, a refusal, or what a fault puts in its place
    asks      a request's body as the platform understands it
    accounts  whose key it is, and what becomes of accounts in mid-run; foreign: another program that uses one
    strangers  others on the same account, whose usage events look like ours; chats: saved conversations
    usage     an account: its limits, its balance and its usage events
    limits    RPM and TPM as one gate, and what is charged when
    windows   a minute as servers count it; window_shapes: in all its shapes
    rate_headers  what an answer says about the limits, as each provider spells it
    idempotency  answers that are told again
    faults    what can go wrong, how that looks, and whether it is billed
    plan      which request meets which fault
    replies   bodies and errors in the shape of each dialect; vectors, hosted: those that are no text
    catalog   models and prices
    ledger    what was billed, on disk before the answer's first byte
    counters  what a test wants to know afterwards
    draws     all of its chance, from a seed
    settings  all that can be chosen, in one record

It imports nothing else of batchrunner, so that runner and simulator cannot be wrong in the same way.
"""

from __future__ import annotations
