"""Logs: some lines of a server's log or table, and the lines that follow."""

from __future__ import annotations

import numpy as np

from workloads.text.sample import Facts, Recipe, Sample, pick, words

_HOSTS = words("web-07|db-01|edge-3|cache-12|ingest-5|gw-02|node-18|mx-4|auth-9|queue-6|lb-11|build-2")
_SERVICES = words(
    "checkoutd|authproxy|mailer-svc|ledgerd|imgresize|searchd|notifyd|billing-api|sessiond|uploader"
)
_PATHS = words(
    "/api/v2/cart|/login|/static/app.js|/healthz|/v1/upload|/metrics|/feed.xml|/admin/panel|/img/logo.png"
)
_STATUS = (200, 200, 201, 204, 301, 304, 403, 404, 500, 502, 503)
_USERS = words("root|deploy|www-data|postgres|svc_backup|jenkins|ubuntu|nagios")
_TABLES = words("acct_ledger|sess_store|evt_queue|usr_profile|inv_stock|geo_cache")
_ERRS = words("ECONNRESET|ETIMEDOUT|ENOSPC|EPIPE|EACCES|ENOTFOUND|EADDRINUSE")
_DEVICES = words("eth0|sda1|nvme0n1|bond1|docker0|md127|tun4|ens5")
_TOPICS = words("orders.raw|clicks.v3|audit.log|telemetry-in|mail.bounce")
_TICKS = 7


def _facts(rng: np.random.Generator) -> Facts:
    """Names and numbers of one incident, and the times `t0`, `t1`, ... of its lines."""
    second, ticks = int(rng.integers(0, 86_000)), {}
    for i in range(_TICKS):
        ticks[f"t{i}"] = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        second += int(rng.integers(1, 4))
    host, port = pick(rng, _HOSTS), int(rng.integers(1024, 65_000))
    return {
        **ticks, "host": host, "svc": pick(rng, _SERVICES), "path": pick(rng, _PATHS), "path2": pick(rng, _PATHS),
        "code": pick(rng, _STATUS), "user": pick(rng, _USERS), "table": pick(rng, _TABLES), "err": pick(rng, _ERRS),
        "dev": pick(rng, _DEVICES), "topic": pick(rng, _TOPICS), "pid": int(rng.integers(300, 9999)), "port": port,
        "ip": ".".join(str(int(x)) for x in rng.integers(10, 250, size=4)), "req": f"{int(rng.integers(1 << 24)):06x}",
        "ms": int(rng.integers(2, 900)), "kb": int(rng.integers(12, 990)), "day": int(rng.integers(10, 29)),
        "n": int(rng.integers(3, 60)),
    }  # fmt: skip


_JSON = '{{"ts":"2024-03-{day}T{tick}Z","host":"{host}",'


def _json(tick: int, fields: str) -> str:
    """One structured line at `t<tick>`: what the formal style logs."""
    return _JSON.replace("tick", f"t{tick}") + fields + "}}\n"


_RECIPES = (
    Recipe(
        _facts,
        (
            '{ip} - - [{day}/Mar/2024:{t0} +0000] "GET {path} HTTP/1.1" {code} {kb}\n'
            '{ip} - - [{day}/Mar/2024:{t1} +0000] "GET {path2} HTTP/1.1" {code} {kb}\n',
        ),
        (
            '{ip} - - [{day}/Mar/2024:{t2} +0000] "<GET|POST|HEAD> {path} HTTP/1.1" <200|{code}> {kb}\n'
            '{ip} - - [{day}/Mar/2024:{t3} +0000] "<GET|POST> {path2} HTTP/1.1" <304|{code}> '
            "<0|512|{kb}>\n"
            '{ip} - - [{day}/Mar/2024:{t4} +0000] "GET {path}<|?retry=1> HTTP/1.1" {code} {kb}\n',
        ),
        (
            _json(2, '"method":"<GET|POST>","uri":"{path}","status":{code},"peer":"{ip}"')
            + _json(3, '"method":"GET","uri":"{path2}","status":<304|{code}>,"peer":"{ip}"'),
        ),
    ),
    Recipe(
        _facts,
        (
            "Mar {day} {t0} {host} sshd[{pid}]: Failed password for {user} from {ip} port {port} ssh2\n"
            "Mar {day} {t1} {host} sshd[{pid}]: Connection closed by {ip}\n",
        ),
        (
            "Mar {day} {t2} {host} sshd[{pid}]: Failed <password|publickey> for {user} from {ip} port "
            "{port} ssh2\nMar {day} {t3} {host} <sshd[{pid}]: pam_unix(sshd:auth): check "
            "pass|sshd[{pid}]: Disconnected from> user {user} {ip}\n"
            "Mar {day} {t4} {host} <fail2ban: Ban|sshd[{pid}]: Received disconnect from|kernel: DROP "
            "SRC=> {ip}\n",
        ),
        (
            _json(
                2,
                '"unit":"sshd","pid":{pid},"outcome":"<denied|'
                'rejected>","account":"{user}","peer":"{ip}:{port}"',
            )
            + _json(3, '"unit":"sshd","pid":{pid},"outcome":"<banned|closed>","peer":"{ip}:{port}"'),
        ),
    ),
    Recipe(
        _facts,
        (
            "ts={t0} level=info svc={svc} req={req} msg=start path={path}\n"
            "ts={t1} level=warn svc={svc} req={req} err={err} latency_ms={ms}\n",
        ),
        (
            "ts={t2} level=<info|warn> svc={svc} req={req} msg=retry attempt=<1|2|3> err={err}\n"
            "ts={t3} level=<error|warn> svc={svc} req={req} err={err} latency_ms=<5000|{ms}|3000>\n"
            "ts={t4} level=info svc={svc} req={req} msg=<done|aborted|fallback> path={path} "
            "status=<200|503|{code}>\n",
        ),
        (
            _json(2, '"severity":"<NOTICE|WARNING>","service":"{svc}","trace":"{req}","errno":"{err}"')
            + _json(3, '"severity":"<ERROR|CRITICAL>","service":"{svc}","trace":"{req}","elapsed":{ms}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "{t0},{n}1 INFO  [{svc}-worker-{n}] c.acme.{table}.Pool - acquired conn #{pid} in {ms}ms\n"
            "{t1},{n}4 DEBUG [{svc}-worker-{n}] c.acme.{table}.Pool - active={n} idle=<0|2|4>\n",
        ),
        (
            "{t2},{n}7 <WARN |INFO > [{svc}-worker-{n}] c.acme.{table}.Pool - slow conn #{pid}: "
            "<{ms}ms|{err}>\n{t3},{n}2 <ERROR|DEBUG> [{svc}-worker-{n}] c.acme.{table}.<Pool|Cache|Dao> "
            "- <evict|release|close> conn #{pid}\n"
            "{t4},{n}8 INFO  [{svc}-worker-<1|{n}>] c.acme.{table}.Pool - active={n} idle=<1|3>\n",
        ),
        (
            _json(
                2,
                '"logger":"acme.{table}.Pool","thread":"{svc}-{n}","conn":{pid},"state":"<stalled|released>"',
            )
            + _json(3, '"logger":"acme.{table}.Pool","active":{n},"waited":{ms}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "TIME      POD              READY  STATUS    RESTARTS\n{t0}  {svc}-{req}  1/1  Running  {n}\n"
            "{t1}  {svc}-{req}  0/1  <Error|OOMKilled>  {n}\n",
        ),
        (
            "{t2}  {svc}-{req}  0/1  <CrashLoopBackOff|Pending|Terminating>  {n}\n"
            "{t3}  {svc}-{req}  0/1  <ContainerCreating|ImagePullBackOff|Init:0/2>  {n}\n"
            "{t4}  {svc}-{req}  <1/1  Running|0/1  Evicted>  {n}\n"
            "Event: <Scheduled|Pulled|BackOff> {svc}-{req} on {host}\n",
        ),
        (
            _json(2, '"pod":"{svc}-{req}","phase":"<Failed|Pending>","ready":false,"restarts":{n}')
            + _json(3, '"pod":"{svc}-{req}","phase":"<Running|Unknown>","ready":<true|false>,"restarts":{n}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "host,time,cpu_pct,mem_mb,{dev}_kbps\n{host},{t0},{n},{ms},{kb}\n{host},{t1},{n},{ms},{kb}\n"
            "{host},{t2},{n},{ms},<0|{kb}>\n",
        ),
        (
            "{host},{t3},{n},<{ms}|2048>,{kb}\n{host},{t4},<99|{n}|100>,{ms},<0|{kb}>\n"
            "{host},{t5},{n},{ms},{kb}\n{host},{t6},<97|{n}>,{ms},{kb}\n"
            "# <alert|notice|cleared>: {dev} on {host} <over|near|under> threshold {n} at {t6}\n",
        ),
        (
            _json(3, '"gauge":"cpu","pct":{n},"rss":{ms}')
            + _json(4, '"gauge":"net","dev":"{dev}","kbps":{kb}')
            + _json(5, '"gauge":"<cpu|disk>","pct":{n},"rss":{ms}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "2024-03-{day} {t0} UTC [{pid}] {user}@{table} LOG:  checkpoint starting: <time|wal>\n"
            "2024-03-{day} {t1} UTC [{pid}] {user}@{table} LOG:  duration: {ms} ms\n",
        ),
        (
            "2024-03-{day} {t2} UTC [{pid}] {user}@{table} <ERROR|FATAL>:  <deadlock "
            "detected|terminating connection|lock timeout>\n"
            "2024-03-{day} {t3} UTC [{pid}] {user}@{table} <DETAIL|HINT>:  Process {pid} waits <for "
            "ShareLock|on page {n}>\n2024-03-{day} {t4} UTC [{pid}] {user}@{table} LOG:  duration: {ms} "
            "ms\n",
        ),
        (
            _json(2, '"backend":{pid},"role":"{user}","database":"{table}","sqlstate":"<40P01|57P01>"')
            + _json(3, '"backend":{pid},"role":"{user}","database":"{table}","elapsed":{ms}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "[{t0}] [broker {n}] partition {topic}-{n} lag={pid} isr=3\n"
            "[{t1}] [broker {n}] partition {topic}-{n} lag={kb} isr=<2|3>\n",
        ),
        (
            "[{t2}] [broker {n}] <leader election|ISR shrink|rebalance> for {topic}-{n} isr=<1|2|3>\n"
            "[{t3}] [broker {n}] partition {topic}-{n} lag=<0|{kb}|{pid}> isr=<2|3>\n"
            "[{t4}] [broker {n}] consumer {svc} <joined|left|heartbeat> {topic} offset={port}\n",
        ),
        (
            _json(2, '"broker":{n},"topic":"{topic}","lag":{pid},"action":"<elect|shrink>"')
            + _json(3, '"broker":{n},"topic":"{topic}","lag":<0|{kb}>,"action":"<rejoin|commit>"'),
        ),
    ),
    Recipe(
        _facts,
        (
            "[{n}.{pid}44] {dev}: link is down, resetting (code {ms})\n"
            "[{n}.{pid}51] {dev}: timeout waiting for cmd 0x{req}, {host} irq {n}\n",
        ),
        (
            "[{n}.{pid}63] {dev}: <link is up 1000Mbps|reset failed|I/O error sector {port}> (code "
            "{ms})\n[{n}.{pid}70] <EXT4-fs|NETDEV|blk_update_request>: {dev}: cmd 0x{req} "
            "<aborted|requeued>\n[{n}.{pid}92] {dev}: <watchdog|firmware|carrier> <lost|recovered>, "
            "{host} irq {n}\n",
        ),
        (
            _json(2, '"kernel":"{dev}","cmd":"0x{req}","verdict":"<aborted|requeued>","irq":{n}')
            + _json(3, '"kernel":"{dev}","carrier":<true|false>,"irq":{n},"ret":{ms}'),
        ),
    ),
    Recipe(
        _facts,
        (
            "{t0} {host} CRON[{pid}]: ({user}) CMD (/opt/{svc}/backup.sh {table})\n"
            "{t1} {host} rsync[{pid}]: sent {kb} bytes to {ip}::{table}\n",
        ),
        (
            "{t2} {host} rsync[{pid}]: <{err} on {dev}|sent {ms} bytes to {ip}::{table}|file has "
            "vanished: {table}.tmp>\n{t3} {host} CRON[{pid}]: ({user}) <END|MAIL|INFO> "
            "(/opt/{svc}/backup.sh {table}) exit=<0|1|23>\n"
            "{t4} {host} systemd[1]: {svc}.service: <Succeeded|Main process exited|Scheduled restart>\n",
        ),
        (
            _json(2, '"job":"backup/{table}","account":"{user}","dest":"{ip}","bytes":{kb}')
            + _json(3, '"job":"backup/{table}","unit":"{svc}","exit":<0|1|23>'),
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """Some lines of a log and the ones after them."""
    return pick(rng, _RECIPES).sample(rng, "logs", style)
