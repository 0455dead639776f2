import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { SerialConsole } from "../../../testbed/console.ts";

let folder: string;
let serial: SerialConsole;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "edgeseal-console-"));
  serial = await SerialConsole.listen(join(folder, "console.sock"), join(folder, "console.log"));
});

afterEach(async () => {
  await serial.close();
  await rm(folder, { recursive: true });
});

/** What QEMU does: connects, writes, and goes away. */
async function boot(...chunks: readonly string[]): Promise<void> {
  const socket = connect(join(folder, "console.sock"));
  await once(socket, "connect");
  for (const chunk of chunks) socket.write(chunk);
  socket.end();
  await once(socket, "close");
}

test("finds what is written later, over chunk borders", async () => {
  const found = serial.waitFor(/boot (\w+) is ready/);
  await boot("noise\nboot a", "bc is re", "ady\n");
  expect((await found)[1]).toBe("abc");
});

test("finds what is already there", async () => {
  await boot("boot abc is ready\n");
  await serial.waitFor(/ready/);
  expect((await serial.waitFor(/boot (\w+)/))[1]).toBe("abc");
});

test("looks only behind the position that it is given", async () => {
  await boot("boot one\n");
  await serial.waitFor(/one/);
  const second = serial.waitFor(/boot (\w+)\n/, { from: serial.position() });
  await boot("boot two\n");
  expect((await second)[1]).toBe("two");
});

test("a time-out shows the end of the log", async () => {
  await boot("Kernel panic - not syncing\n");
  await serial.waitFor(/panic/);
  await expect(serial.waitFor(/ready/, { timeoutMs: 20 })).rejects.toThrow(/within 0\.02 s.*Kernel panic/s);
});

test("waiting ends when it is aborted", async () => {
  await expect(serial.waitFor(/ready/, { signal: AbortSignal.timeout(20) })).rejects.toThrow(/timeout/i);
});

test("the log file has all boots", async () => {
  await boot("boot one\n");
  await boot("boot two\n");
  await serial.waitFor(/two/);
  await serial.close();
  expect(await readFile(join(folder, "console.log"), "utf8")).toBe("boot one\nboot two\n");
});
