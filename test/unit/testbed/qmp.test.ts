import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Qmp, type QmpEvent } from "../../../testbed/qmp.ts";

interface Command {
  readonly execute: string;
  readonly arguments?: unknown;
  readonly id: number;
}

let folder: string;
let qmp: Qmp;
let qemu: Socket;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "edgeseal-qmp-"));
  qmp = await Qmp.listen(join(folder, "qmp.sock"));
});

afterEach(async () => {
  qmp.close();
  await rm(folder, { recursive: true });
});

/** QEMU's side: greets, and answers each command with what `answer` says. */
async function start(answer: (command: Command) => object): Promise<void> {
  qemu = connect(join(folder, "qmp.sock"));
  await once(qemu, "connect");
  createInterface(qemu).on("line", (line) => {
    const command = JSON.parse(line) as Command;
    send({ id: command.id, ...(command.execute === "qmp_capabilities" ? { return: {} } : answer(command)) });
  });
  // In two pieces: a message may come in any.
  qemu.write('{"QMP": {"version"');
  qemu.write(": {}}}\r\n");
  await qmp.ready();
}

const send = (message: object): boolean => qemu.write(`${JSON.stringify(message)}\r\n`);

test("a command gets its own answer", async () => {
  await start(({ execute, arguments: given }) => ({ return: { execute, given } }));
  const [first, second] = await Promise.all([
    qmp.execute("query-status"),
    qmp.execute("migrate", { uri: "unix:x" }),
  ]);
  expect(first).toEqual({ execute: "query-status" });
  expect(second).toEqual({ execute: "migrate", given: { uri: "unix:x" } });
});

test("a refusal comes with QEMU's words", async () => {
  await start(() => ({ error: { class: "GenericError", desc: "No such device" } }));
  await expect(qmp.execute("eject")).rejects.toThrow("QEMU: No such device");
});

test("events reach their listener until it stops listening", async () => {
  await start(() => ({ return: {} }));
  const seen: QmpEvent[] = [];
  const stop = qmp.on((event) => seen.push(event));
  send({ event: "SHUTDOWN", data: { guest: true, reason: "guest-reset" }, timestamp: {} });
  await qmp.execute("query-status");
  stop();
  send({ event: "STOP" });
  await qmp.execute("query-status");
  expect(seen).toEqual([{ event: "SHUTDOWN", data: { guest: true, reason: "guest-reset" } }]);
});

test("a QEMU that goes away fails the command under way and those that follow", async () => {
  await start(() => ({}));
  qemu.removeAllListeners("data");
  const underWay = qmp.execute("stop");
  qemu.destroy();
  await expect(underWay).rejects.toThrow("QEMU is gone");
  await expect(qmp.execute("cont")).rejects.toThrow(/cont not sent/);
});

test("a QEMU that never comes fails who waits for it", async () => {
  const ready = qmp.ready();
  qmp.close();
  await expect(ready).rejects.toThrow(/before QEMU connected/);
});
