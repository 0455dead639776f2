import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Connection } from "../../provider/connection.ts";
import { newNonce } from "../../provider/device/batch.ts";
import { parsePlanOutput } from "../../provider/device/plan-output.ts";
import { applyPlan } from "../../provider/device/plan-runner.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { run, upload, type UploadStep } from "../../provider/device/step.ts";
import type { Link, Transport } from "../../provider/device/transport.ts";
import { offsetLine, partialOf, renderUpload } from "../../provider/device/upload-script.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { ask, interruptEverywhere } from "./interruption.ts";
import { processKilledAt } from "./killed-upload.ts";
import { apply, look, seen, sessionTo } from "./steps-on-node.ts";

let node: NamespaceNode;
let folder: string;
/** Bytes that no compression and no text conversion leaves as they are by chance: all values, and line ends at the seams. */
const content = Buffer.concat([
  Buffer.from("\n\r\n\0"),
  randomBytes(9 * 1024 * 1024 + 77),
  Buffer.from("\0\n"),
]);
let step: UploadStep;

const place = "/srv/model's folder";
const path = `${place}/it's a model`;

const digest = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

async function stepFor(bytes: Buffer, changes: Partial<UploadStep> = {}): Promise<UploadStep> {
  const source = join(folder, `source-${digest(bytes).slice(0, 8)}`);
  await writeFile(source, bytes);
  return upload({
    title: "send",
    source,
    path,
    bytes: bytes.length,
    sha256: digest(bytes),
    mode: "0444",
    ...changes,
  });
}

beforeAll(async () => {
  node = await NamespaceNode.start();
  folder = await mkdtemp(join(tmpdir(), "edgeseal-upload-"));
  step = await stepFor(content);
});

afterAll(async () => {
  await node.stop();
  await rm(folder, { recursive: true });
});

const quoted = (path: string): string => `'${path.replaceAll("'", "'\\''")}'`;

beforeEach(() =>
  node.must(
    `umount -l ${quoted(place)} 2>/dev/null; rm -rf ${quoted(place)} /srv/other; mkdir -p ${quoted(place)}`,
  ),
);

const partial = (of: UploadStep): string => quoted(partialOf(of));
const there = (path = step.path): Promise<string> =>
  node.must(`stat -c '%F %a %U:%G' ${quoted(path)}; sha256sum <${quoted(path)}; ls -A ${quoted(place)}`);
const whole = (of: UploadStep = step): string =>
  `regular file 444 root:root\n${of.sha256}  -\nit's a model\n`;
/** Waits until nothing of a run that was cut off is at work on the node any more. */
const free = (): Promise<string> => node.must("until flock -n /run/edgeseal/lock true; do sleep 0.05; done");
const listing = (): Promise<string> => node.must(`ls -A ${quoted(place)}`);
const sizeOf = async (path: string): Promise<number> => Number(await node.must(`stat -c %s ${path}`));

/** What went over the line, and a line that ends after so many bytes of content. */
class Line implements Transport {
  sent = 0;
  largest = 0;
  readonly #cutAfter: number;
  readonly #ssh = ssh2Transport();

  readonly #pauseMs: number;

  constructor(cutAfter = Infinity, pauseMs = 0) {
    this.#cutAfter = cutAfter;
    this.#pauseMs = pauseMs;
  }

  async connect(...given: Parameters<Transport["connect"]>): Promise<Link> {
    const link = await this.#ssh.connect(...given);
    const exec: Link["exec"] = (command, options) => {
      const { content } = options;
      if (content === undefined) return link.exec(command, options);
      return link.exec(command, { ...options, content: () => this.#through(content(), link) });
    };
    return {
      exec,
      close: () => link.close(),
      get open() {
        return link.open;
      },
    };
  }

  async *#through(pieces: AsyncIterable<Uint8Array>, link: Link): AsyncGenerator<Uint8Array> {
    let first = true;
    for await (const piece of pieces) {
      this.largest = Math.max(this.largest, piece.length);
      if (first) {
        // The line that says where the content begins.
        yield piece;
        first = false;
        continue;
      }
      await new Promise((resolve) => setTimeout(resolve, this.#pauseMs));
      const left = this.#cutAfter - this.sent;
      this.sent += Math.min(left, piece.length);
      yield piece.subarray(0, Math.max(0, left));
      if (left > piece.length) continue;
      // head(1) holds back less than that until it sees the end.
      const written = this.#cutAfter - 64 * 1024;
      await node.must(`until [ "$(stat -c %s ${partial(step)})" -ge ${written} ]; do sleep 0.05; done`);
      await link.close();
      return;
    }
  }
}

function sessionOver(
  transport: Transport,
  connection: Connection = node.connection,
): Session & AsyncDisposable {
  const session = createSession({ connection, transport, attempts: 1, failureHoldMs: 0 });
  return Object.assign(session, { [Symbol.asyncDispose]: () => session.close() });
}

describe("whole", () => {
  test("a file arrives as it is, with mode and owner, before the steps after it run, and is read back in the plan's own exec", async () => {
    await using session = sessionTo(node.connection);
    const after = run({ title: "use it", script: `test -f ${quoted(step.path)}` });
    const told: string[] = [];
    const result = await apply(session, [step, after], {
      readback: [look(`sha256sum <${quoted(step.path)}`)],
      onProgress: (message) => told.push(message),
    });
    expect(result.failure).toBeUndefined();
    expect(result.steps).toEqual([
      { title: "send", outcome: "done" },
      { title: "use it", outcome: "done" },
    ]);
    expect(seen(result)).toBe(`${step.sha256}  -\n`);
    expect(await there()).toBe(whole());
    expect(told.slice(0, 1)).toEqual(["send"]);
    expect(session.counts).toEqual({ connections: 1, execs: 2 });
    expect(await node.must("ls -A /run/edgeseal | sort | tr '\\n' ' '")).toBe("fence guard lock ");
  });

  test("what is there with the right digest is not sent again; mode and owner are set all the same", async () => {
    const line = new Line();
    await using session = sessionOver(line);
    await apply(session, [step]);
    expect(line.sent).toBe(content.length);
    await node.must(`chmod 0600 ${quoted(step.path)}; chown 1 ${quoted(step.path)}`);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(content.length);
    expect(await there()).toBe(whole());
    // The twin: of the right size only, it is sent.
    await node.must(`printf x | dd of=${quoted(step.path)} bs=1 seek=4711 conv=notrunc status=none`);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(2 * content.length);
    expect(await there()).toBe(whole());
  });

  test("an empty file, and two files in one plan", async () => {
    const empty = await stepFor(Buffer.alloc(0), { title: "send nothing", path: `${place}/empty` });
    await using session = sessionTo(node.connection);
    const result = await apply(session, [empty, step]);
    expect(result.failure).toBeUndefined();
    expect(session.counts).toEqual({ connections: 1, execs: 3 });
    expect(await listing()).toBe("empty\nit's a model\n");
    expect(await sizeOf(`${quoted(place)}/empty`)).toBe(0);
  });

  test("a symbolic link at the path is replaced and never followed; nor is one at the partial file's", async () => {
    await node.must(
      `echo untouched >/srv/other; ln -s /srv/other ${quoted(step.path)}; ln -s /srv/other ${partial(step)}`,
    );
    await using session = sessionTo(node.connection);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(await there()).toBe(whole());
    expect(await node.must("cat /srv/other")).toBe("untouched\n");
  });

  test("the file is never in memory as a whole", async () => {
    const line = new Line();
    await using session = sessionOver(line);
    await apply(session, [step]);
    expect(line.largest).toBeLessThanOrEqual(256 * 1024);
  });
});

describe("resumed", () => {
  test("a line that was cut at a byte: the next run sends the rest, and nothing but the rest", async () => {
    const cutAfter = 5 * 1024 * 1024 + 3;
    {
      await using session = sessionOver(new Line(cutAfter));
      await expect(apply(session, [step])).rejects.toMatchObject({
        kind: "unreachable",
        message: expect.stringContaining("it goes on from there") as string,
      });
    }
    await free();
    const arrived = await sizeOf(partial(step));
    expect(arrived).toBeGreaterThan(cutAfter - 64 * 1024);
    expect(arrived).toBeLessThanOrEqual(cutAfter);
    expect(await node.must(`stat -c %a ${partial(step)}; test ! -e ${quoted(step.path)}`)).toBe("600\n");
    const line = new Line();
    await using session = sessionOver(line);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(content.length - arrived);
    expect(await there()).toBe(whole());
    expect(session.counts).toEqual({ connections: 1, execs: 2 });
  });

  test("a partial file that is not the beginning of it is sent from the start; one for other content, or too long, goes away", async () => {
    const stale = await stepFor(Buffer.from("other"));
    await node.must(`head -c 1000000 /dev/urandom >${partial(step)}; echo x >${partial(stale)}`);
    const line = new Line();
    await using session = sessionOver(line);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(content.length);
    expect(await there()).toBe(whole());
    await node.must(`rm ${quoted(step.path)}; head -c ${content.length + 1} /dev/urandom >${partial(step)}`);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(await there()).toBe(whole());
  });

  test("all of it there under its partial name: nothing is sent but that", async () => {
    await using warm = sessionTo(node.connection);
    await apply(warm, [step]);
    await node.must(`mv ${quoted(step.path)} ${partial(step)}`);
    const line = new Line();
    await using session = sessionOver(line);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(0);
    expect(await there()).toBe(whole());
  });

  test("a provider process that is killed leaves no lock, and what arrived is used", async () => {
    await processKilledAt(node.connection, step);
    await free();
    const arrived = await sizeOf(partial(step));
    expect(arrived).toBeGreaterThan(0);
    const line = new Line();
    await using session = sessionOver(line);
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(line.sent).toBe(content.length - arrived);
    expect(await there()).toBe(whole());
  });

  test("a plan with an upload, cut off before and after each point, is brought to its end by the next", async () => {
    const done = look(
      `sha256sum <${quoted(step.path)} 2>/dev/null; cat ${quoted(place)}/used 2>/dev/null; ls -A ${quoted(place)}`,
    );
    const use = run({ title: "use it", script: `echo used >${quoted(place)}/used` });
    const points = await interruptEverywhere(
      {
        reset: async (at) => {
          await at.must(`rm -rf ${quoted(place)}; mkdir ${quoted(place)}`);
        },
        plan: async (session) =>
          (await ask(session, done)) === `${step.sha256}  -\nused\nit's a model\nused\n` ? [] : [step, use],
      },
      node,
    );
    expect(points).toEqual(["before send", "after send", "before use it", "after use it"]);
  });

  test("stopped by its signal, it leaves what arrived", async () => {
    const stop = new AbortController();
    const line = new Line();
    await using session = sessionOver(line);
    const applying = apply(session, [step], { signal: stop.signal });
    applying.catch(() => undefined);
    await node.must(`until [ -s ${partial(step)} ]; do sleep 0.01; done`).finally(() => stop.abort());
    await expect(applying.then(({ failure }) => failure?.kind)).rejects.toMatchObject({ kind: "cancelled" });
    await free();
    expect(await node.must(`test ! -e ${quoted(step.path)} && stat -c %F ${partial(step)}`)).toBe(
      "regular file\n",
    );
  });
});

describe("a slow line", () => {
  const nonce = newNonce();
  /** The script with a minute of silence made two seconds. */
  const impatient = (): string =>
    renderUpload(
      { id: "0", step },
      { nonce, changeNonce: nonce, owner: "tester", purpose: "a test", lockWaitSeconds: 5 },
    ).replace("attended 60 ", "attended 2 ");
  /** The line that says where it begins, and so many pieces, one a second; then nothing, until somebody ends it. */
  const dripping = (pieces: number, ended: Promise<unknown>) =>
    async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from(offsetLine(0));
      for (let piece = 0; piece < pieces; piece++) {
        yield content.subarray(piece * 65_536, (piece + 1) * 65_536);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
      if (pieces === 0) yield content.subarray(0, 65_536);
      await ended;
    };

  test("that falls silent is given up, with what arrived kept, and the lock let go", async () => {
    await using session = sessionTo(node.connection);
    const ended = Promise.withResolvers<undefined>();
    const { stdout } = await session.run(impatient(), {
      timeoutMs: 10_000,
      content: dripping(0, ended.promise),
    });
    ended.resolve(undefined);
    const { failure } = parsePlanOutput(stdout, nonce);
    expect(failure?.output).toContain("what did is kept, and the next run goes on from there");
    expect(await sizeOf(partial(step))).toBeGreaterThan(0);
    await free();
    expect((await apply(session, [step])).failure).toBeUndefined();
    expect(await there()).toBe(whole());
  });

  test("that only drips goes on for longer than silence may last, on the device and here", async () => {
    await using session = sessionTo(node.connection);
    const ended = Promise.withResolvers<undefined>();
    const running = session.run(impatient(), { timeoutMs: 2_000, content: dripping(6, ended.promise) });
    await node.must(
      `until [ "$(stat -c %s ${partial(step)} 2>/dev/null || echo 0)" -ge 300000 ]; do sleep 0.05; done`,
    );
    // Silence ends it all the same.
    expect(parsePlanOutput((await running).stdout, nonce).failure?.output).toContain("nothing arrived");
    ended.resolve(undefined);
  });

  test("is told of in percent and speed", async () => {
    const told: string[] = [];
    await using session = sessionOver(new Line(Infinity, 150));
    const result = await apply(session, [step], { onProgress: (message) => told.push(message) });
    expect(result.failure).toBeUndefined();
    expect(told.length).toBeGreaterThan(1);
    expect(told.length).toBeLessThan(6);
    expect(told.slice(1)).toEqual(
      told.slice(1).map(() => expect.stringMatching(/^send: \d+ % of 9\.0 MiB, \d+\.\d MB\/s$/) as string),
    );
  });
});

describe("refused", () => {
  const failureOf = async (steps: Parameters<typeof apply>[1]): Promise<string> => {
    await using session = sessionTo(node.connection);
    const result = await apply(session, steps).catch((error: unknown) => ({ failure: error as Error }));
    return `${String((result.failure as { kind?: string }).kind)}: ${result.failure?.message ?? ""}`;
  };

  test.each<[string, (of: UploadStep) => UploadStep, string]>([
    ["is missing", (of) => ({ ...of, source: "/nowhere/at all" }), "/nowhere/at all can't be read (ENOENT"],
    ["is a folder", (of) => ({ ...of, source: "/" }), "/ is not a regular file"],
    ["has another size", (of) => ({ ...of, bytes: 7 }), `has ${content.length} bytes, and 7 were expected`],
    ["has another digest", (of) => ({ ...of, sha256: "0".repeat(64) }), `and ${"0".repeat(64)} was expected`],
  ])("a local file that %s, before the device is asked for anything", async (_what, changed, said) => {
    await using session = sessionTo(node.connection);
    const applying = apply(session, [step, changed(step)]);
    await expect(applying).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining(said) as string,
    });
    expect(session.counts).toEqual({ connections: 0, execs: 0 });
    expect(await listing()).toBe("");
  });

  test("a local file that is changed while it is sent: nothing of it gets the name", async () => {
    const mine = await stepFor(randomBytes(8 * 1024 * 1024));
    await using session = sessionTo(node.connection);
    const applying = apply(session, [
      { ...mine, precondition: "until [ -e /srv/other ]; do sleep 0.05; done" },
    ]);
    applying.catch(() => undefined);
    await node.must("until [ -e /run/edgeseal/holder ]; do sleep 0.05; done");
    await writeFile(mine.source, randomBytes(mine.bytes));
    await node.must("touch /srv/other");
    await expect(applying).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("was changed while it was sent") as string,
    });
    await free();
    expect(await node.must(`test ! -e ${quoted(mine.path)} && echo none`)).toBe("none\n");
  });

  test("not enough room, with what is needed and what is free, before anything is sent", async () => {
    await node.must(`mount -t tmpfs -o size=6m,mode=0755 tmpfs ${quoted(place)}`);
    const line = new Line();
    await using session = sessionOver(line);
    const { failure } = await apply(session, [step]);
    expect(failure?.kind).toBe("refused");
    expect(failure?.message).toContain("'send' needs 9.0 MiB more on the device, where 6.0 MiB are free");
    expect(line.sent).toBe(0);
    expect(await listing()).toBe("");
  });

  test("a precondition that does not hold: neither is the file sent nor anything after it done", async () => {
    const guarded = { ...step, precondition: `mountpoint -q ${quoted(place)}` };
    const after = run({ title: "after", script: "touch /srv/other" });
    expect(await failureOf([guarded, after])).toContain(
      "preconditionFailed: " +
        `${node.connection.node}: the device is no longer as the plan for 'send' assumed`,
    );
    expect(await listing()).toBe("");
    expect((await node.exec("test -e /srv/other")).code).not.toBe(0);
    // The twin: it holds.
    await node.must(`mount -t tmpfs -o mode=0755 tmpfs ${quoted(place)}`);
    await using session = sessionTo(node.connection);
    expect((await apply(session, [guarded, after])).failure).toBeUndefined();
    expect(await there()).toBe(whole());
  });

  test.each([
    ["that is missing", `rm -r ${quoted(place)}`, "does not exist"],
    ["that others may change", `chmod 0777 ${quoted(place)}`, "can be changed by others than root"],
    ["that is another user's", `chown 1 ${quoted(place)}`, "can be changed by others than root"],
    ["with a folder at the path", `mkdir ${quoted(path)}`, "is a directory"],
  ])("a folder %s", async (_what, prepare, said) => {
    await node.must(prepare);
    expect(await failureOf([step])).toContain(said);
    expect((await node.exec(`test -e ${partial(step)}`)).code).not.toBe(0);
  });

  test("an upload after another step, before anything is sent", async () => {
    await using session = sessionTo(node.connection);
    await expect(apply(session, [run({ title: "first", script: ":" }), step])).rejects.toThrow(
      "'send' is an upload, so it has to come before every other step",
    );
    expect(session.counts).toEqual({ connections: 0, execs: 0 });
  });

  test("content that the line, or the disk, spoilt: the device throws it away", async () => {
    class Spoilt extends Line {
      override async connect(...given: Parameters<Transport["connect"]>): Promise<Link> {
        const link = await super.connect(...given);
        const exec: Link["exec"] = (command, options) =>
          link.exec(command, {
            ...options,
            ...(options.content === undefined ? {} : { content: () => flipped(options.content as never) }),
          });
        return { ...link, exec, open: true, close: () => link.close() };
      }
    }
    async function* flipped(pieces: () => AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      let at = 0;
      for await (const piece of pieces()) {
        const copy = Buffer.from(piece);
        if (at++ === 3) copy[100] = (copy[100] ?? 0) ^ 1;
        yield copy;
      }
    }
    await using session = sessionOver(new Spoilt());
    const { failure } = await apply(session, [step]);
    expect(failure?.kind).toBe("stepFailed");
    expect(failure?.message).toContain("it was thrown away");
    expect(await listing()).toBe("");
  });
});

test("of two operators the second waits, or is told who sends what; both end with the file there", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const slow = { ...step, precondition: "until [ -e /srv/other ]; do sleep 0.05; done" };
  const first = applyPlan(one, [slow], [], { purpose: "send a model", owner: "ada@laptop" });
  await node.must("until [ -e /run/edgeseal/holder ]; do sleep 0.05; done");
  const kept = await apply(other, [step], { lockWaitSeconds: 0 });
  expect(kept.failure?.kind).toBe("locked");
  expect(kept.failure?.message).toContain("ada@laptop is changing this node: send a model");
  expect(await listing()).toBe("");
  await node.must("touch /srv/other");
  expect((await first).failure).toBeUndefined();
  expect((await apply(other, [step])).failure).toBeUndefined();
  expect(await there()).toBe(whole());
});
