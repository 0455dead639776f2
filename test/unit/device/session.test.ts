import { afterEach, describe, expect, test } from "vitest";
import type { Connection } from "../../../provider/connection.ts";
import { ChannelRefused, LostBefore } from "../../../provider/device/nothing-ran.ts";
import { cancelled, DeviceError, type DeviceErrorKind } from "../../../provider/device/errors.ts";
import { createSession, type Session, type SessionOptions } from "../../../provider/device/session.ts";
import type { ExecOptions, ExecResult, Link, Transport } from "../../../provider/device/transport.ts";

const connection: Connection = { node: "pi-1", address: "192.0.2.1", port: 22, user: "root", hostKey: "" };

type Exec = (options: ExecOptions, link: FakeLink) => Promise<ExecResult>;

/** Says that the script started, as the device does, and prints `output`. */
function answer(options: ExecOptions, output = "", code = 0): ExecResult {
  const nonce = /@%s started\\n' (\w+);/.exec(options.stdin ?? "")?.[1] ?? "";
  return { code, stdout: `\n@${nonce} started\n${output}`, stderr: "" };
}

class FakeLink implements Link {
  open = true;
  readonly #exec: Exec;
  constructor(exec: Exec) {
    this.#exec = exec;
  }
  exec(_command: string, options: ExecOptions): Promise<ExecResult> {
    return this.#exec(options, this);
  }
  close(): Promise<void> {
    this.open = false;
    return Promise.resolve();
  }
}

/** A transport whose attempts to connect go as scripted; when the script ends, they succeed. */
class FakeTransport implements Transport {
  readonly links: FakeLink[] = [];
  attempts = 0;
  readonly #failures: DeviceErrorKind[];
  readonly #exec: Exec;
  constructor(options: { readonly failures?: readonly DeviceErrorKind[]; readonly exec?: Exec } = {}) {
    this.#failures = [...(options.failures ?? [])];
    this.#exec = options.exec ?? ((given) => Promise.resolve(answer(given)));
  }
  failNext(kind: DeviceErrorKind): void {
    this.#failures.push(kind);
  }
  async connect(): Promise<Link> {
    await Promise.resolve();
    this.attempts += 1;
    const failure = this.#failures.shift();
    if (failure !== undefined)
      throw new DeviceError(failure, "pi-1", `attempt ${this.attempts}`, { hint: "wait" });
    const link = new FakeLink(this.#exec);
    this.links.push(link);
    return link;
  }
}

const sessions: Session[] = [];
function sessionOver(transport: Transport, options: Partial<SessionOptions> = {}): Session {
  const session = createSession({ connection, transport, backoffMs: 1, failureHoldMs: 0, ...options });
  sessions.push(session);
  return session;
}
afterEach(async () => {
  await Promise.all(sessions.splice(0).map((session) => session.close()));
});

const quick = { timeoutMs: 1000 };
const kindOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "resolved",
    (error: unknown) => (error instanceof DeviceError ? error.kind : error),
  );

/** A promise that the test settles. */
function gate<T = void>(): PromiseWithResolvers<T> {
  return Promise.withResolvers<T>();
}

describe("connecting", () => {
  test("happens when first needed, once, for all who ask", async () => {
    const transport = new FakeTransport();
    const session = sessionOver(transport);
    expect(transport.attempts).toBe(0);
    await Promise.all(Array.from({ length: 4 }, () => session.run("x", quick)));
    expect(transport.attempts).toBe(1);
    expect(session.counts).toEqual({ connections: 1, execs: 4 });
  });

  test("is tried again while the device is unreachable, but not for ever", async () => {
    const recovering = new FakeTransport({ failures: ["unreachable", "unreachable"] });
    await sessionOver(recovering).run("x", quick);
    expect(recovering.attempts).toBe(3);
    const gone = new FakeTransport({ failures: Array.from({ length: 9 }, () => "unreachable" as const) });
    expect(await kindOf(sessionOver(gone).run("x", quick))).toBe("unreachable");
    expect(gone.attempts).toBe(3);
  });

  test.each(["denied", "hostKeyMismatch", "timedOut", "refused"] as const)(
    "is not tried again when %s",
    async (kind) => {
      const transport = new FakeTransport({ failures: [kind, kind] });
      expect(await kindOf(sessionOver(transport).run("x", quick))).toBe(kind);
      expect(transport.attempts).toBe(1);
    },
  );

  test("a failure answers for a while, so that thirty resources do not wait out thirty time-outs; then it is tried anew", async () => {
    const transport = new FakeTransport({ failures: ["timedOut"] });
    const session = sessionOver(transport, { failureHoldMs: 200 });
    const begun = performance.now();
    expect(await kindOf(session.run("x", quick))).toBe("timedOut");
    while (performance.now() - begun < 150) expect(await kindOf(session.run("x", quick))).toBe("timedOut");
    expect(transport.attempts).toBe(1);
    const fresh = sessionOver(transport, { failureHoldMs: 0 });
    await fresh.run("x", quick);
    expect(transport.attempts).toBe(2);
  });

  test("after success a dropped connection is made anew", async () => {
    const transport = new FakeTransport();
    const session = sessionOver(transport);
    await session.run("x", quick);
    const first = transport.links[0];
    if (first !== undefined) first.open = false;
    await session.run("x", quick);
    expect(transport.attempts).toBe(2);
  });

  test("at most 8 handshakes are under way in the process, and all get their turn", async () => {
    let now = 0;
    let most = 0;
    const turns: (() => void)[] = [];
    const transport: Transport = {
      connect: async () => {
        most = Math.max(most, ++now);
        await new Promise<void>((resolve) => turns.push(resolve));
        now -= 1;
        return new FakeLink((options) => Promise.resolve(answer(options)));
      },
    };
    const done = Promise.all(Array.from({ length: 20 }, () => sessionOver(transport).run("x", quick)));
    let finished = 0;
    while (finished < 20) {
      await new Promise((resolve) => setImmediate(resolve));
      const turn = turns.shift();
      if (turn === undefined) continue;
      turn();
      finished += 1;
    }
    await done;
    expect(most).toBe(8);
  });
});

describe("a connection that dies", () => {
  /** The first exec on the first link works; its second finds the connection dead. */
  const dyingWhenIdle = (
    error: DeviceError = new DeviceError("unreachable", "pi-1", "gone", { hint: "wait" }),
  ): FakeTransport => {
    let execs = 0;
    return new FakeTransport({
      exec: (options, link) => {
        execs += 1;
        if (execs !== 2) return Promise.resolve(answer(options, `exec ${execs}`));
        link.open = false;
        return Promise.reject(error);
      },
    });
  };

  test("while idle costs a reader one new connection and no error", async () => {
    const transport = dyingWhenIdle();
    const session = sessionOver(transport);
    await session.run("x", quick);
    const result = await session.run("x", { ...quick, readOnly: true });
    expect(result.stdout).toContain("exec 3");
    expect(transport.attempts).toBe(2);
  });

  test("is no error for a script that changes something either, when it was not sent yet", async () => {
    const transport = dyingWhenIdle(new LostBefore("pi-1"));
    const session = sessionOver(transport);
    await session.run("x", quick);
    expect((await session.run("x", quick)).stdout).toContain("exec 3");
    expect(transport.attempts).toBe(2);
  });

  test("is an error for a script that changes something: it may have run in part", async () => {
    const session = sessionOver(dyingWhenIdle());
    await session.run("x", quick);
    expect(await kindOf(session.run("x", quick))).toBe("unreachable");
  });

  test("right after it was made is an error for a reader too", async () => {
    const transport = new FakeTransport({
      exec: (_options, link) => {
        link.open = false;
        return Promise.reject(new DeviceError("unreachable", "pi-1", "gone", { hint: "wait" }));
      },
    });
    expect(await kindOf(sessionOver(transport).run("x", { ...quick, readOnly: true }))).toBe("unreachable");
    expect(transport.attempts).toBe(1);
  });
});

describe("a new connection on purpose", () => {
  test("takes the place of the old one, which is closed, once it carried the exec", async () => {
    const transport = new FakeTransport();
    const session = sessionOver(transport);
    await session.run("x", quick);
    await session.runOnNewConnection("y", quick);
    expect(transport.links.map(({ open }) => open)).toEqual([false, true]);
    await session.run("z", quick);
    expect(session.counts).toEqual({ connections: 2, execs: 3 });
  });

  test("that can't be made leaves the old one as it was", async () => {
    const transport = new FakeTransport();
    const session = sessionOver(transport, { attempts: 1 });
    await session.run("x", quick);
    transport.failNext("denied");
    expect(await kindOf(session.runOnNewConnection("y", quick))).toBe("denied");
    await session.run("z", quick);
    expect(session.counts).toEqual({ connections: 1, execs: 2 });
  });
});

describe("sshd's limit of sessions", () => {
  test("makes an exec wait for another to end", async () => {
    const first = gate();
    let running = 0;
    const transport = new FakeTransport({
      exec: async (options) => {
        if (running >= 1) throw new ChannelRefused("pi-1");
        running += 1;
        await first.promise;
        running -= 1;
        return answer(options);
      },
    });
    const session = sessionOver(transport);
    const both = Promise.all([session.run("x", quick), session.run("y", quick)]);
    await new Promise((resolve) => setImmediate(resolve));
    first.resolve();
    await both;
    expect(session.counts.execs).toBe(3);
  });

  test("is an error when nothing else runs", async () => {
    const transport = new FakeTransport({ exec: () => Promise.reject(new ChannelRefused("pi-1")) });
    await expect(sessionOver(transport).run("x", quick)).rejects.toThrow(/MaxSessions/);
  });
});

describe("ending", () => {
  const hanging = (): FakeTransport =>
    new FakeTransport({
      exec: (options) =>
        new Promise((_resolve, reject) => {
          options.signal?.addEventListener("abort", () => reject(cancelled("pi-1")));
        }),
    });

  test("close ends what runs, waits or connects, and everything after it is cancelled", async () => {
    const running = sessionOver(hanging());
    const execs = Promise.all([kindOf(running.run("x", quick)), kindOf(running.run("y", quick))]);
    await new Promise((resolve) => setImmediate(resolve));
    await running.close();
    expect(await execs).toEqual(["cancelled", "cancelled"]);
    expect(await kindOf(running.run("z", quick))).toBe("cancelled");

    const connecting = sessionOver({
      connect: (_connection, { signal }) =>
        new Promise((_resolve, reject) => {
          signal?.addEventListener("abort", () => reject(cancelled("pi-1")));
        }),
    });
    const waiting = kindOf(connecting.run("x", quick));
    await connecting.close();
    expect(await waiting).toBe("cancelled");
  });

  test("close during a pause between attempts does not wait for its end", async () => {
    const transport = new FakeTransport({ failures: ["unreachable", "unreachable"] });
    const session = sessionOver(transport, { backoffMs: 60_000 });
    const waiting = kindOf(session.run("x", quick));
    await new Promise((resolve) => setImmediate(resolve));
    const begun = performance.now();
    await session.close();
    expect(await waiting).toBe("cancelled");
    expect(performance.now() - begun).toBeLessThan(1000);
  });

  test("one caller that leaves does not disturb the connection that others wait for", async () => {
    const opened = gate<Link>();
    const session = sessionOver({ connect: () => opened.promise });
    const leaving = new AbortController();
    const left = kindOf(session.run("x", { ...quick, signal: leaving.signal }));
    const stays = kindOf(session.run("y", quick));
    leaving.abort();
    expect(await left).toBe("cancelled");
    opened.resolve(new FakeLink((options) => Promise.resolve(answer(options))));
    expect(await stays).toBe("resolved");
  });
});

describe("the device's deadline", () => {
  test("goes along with the script, and is told from a script that exits with 124 by itself", async () => {
    let stdin = "";
    const transport = new FakeTransport({
      exec: (options) => {
        stdin = options.stdin ?? "";
        return Promise.resolve(answer(options, "", 124));
      },
    });
    const result = await sessionOver(transport).run("x", { timeoutMs: 2500 });
    expect(result.code).toBe(124);
    expect(stdin).toContain("timeout -k 5 3 /bin/sh");
  });

  test("that passed is an error", async () => {
    const transport = new FakeTransport({
      exec: async (options) => {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        return answer(options, "", 124);
      },
    });
    await expect(sessionOver(transport).run("x", { timeoutMs: 1000 })).rejects.toMatchObject({
      kind: "timedOut",
      shortMessage: expect.stringContaining("within 1 s and was ended on the device") as string,
    });
  });
});
