import { spawnSync } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import { update, type UpdateOptions } from "../../../cli/update/update.ts";
import { readUpdate } from "../../../cli/update/read-update.ts";
import type { Session } from "../../../provider/device/session.ts";
import { formatEventLog, pcr11Of, type LoggedEvent } from "../../../provider/trust/event-log.ts";
import { systemdSignature } from "../../../provider/trust/pcr-policy.ts";
import { MeasuredNode } from "../resources/measure-fixture.ts";
import { events } from "../resources/sealed-volume-example.ts";
import { connection, localSession } from "./approve-fixture.ts";

/* What a node says of its update, and what the command makes of its options. The whole way is in test/e2e/update.test.ts. */

let node: MeasuredNode;
const measured: readonly LoggedEvent[] = events("pi-1").map((each) => ({ ...each, detail: "" }));

beforeEach(() => {
  node = new MeasuredNode({
    "/status": `phase=none\nkept=${"ab".repeat(32)}\n`,
    "/sys/class/tpm/tpm0/pcr-sha256/11": `${pcr11Of(measured).toUpperCase()}\n`,
    "/run/edgeseal/measured/log": formatEventLog({ start: "0".repeat(64), events: measured }),
    "/run/edgeseal/volumes/models": "state=open\nby=tpm\n",
    "/run/edgeseal/volumes/logs": "state=locked\nreason=x\n",
    "/etc/edgeseal/volumes/models.conf": "",
    "/etc/edgeseal/trust/approvals.json": JSON.stringify(
      systemdSignature("ef".repeat(32), [{ pcr11: "", pol: "cd".repeat(32), sig: "c2ln" }]),
    ),
    "/etc/edgeseal/volumes/logs.conf": "",
  });
});
afterEach(() => {
  node[Symbol.dispose]();
});

/** Runs what is asked of the node in its folder. */
function session(): Session {
  const run: Session["run"] = (script) => {
    const here = script
      .replaceAll("/usr/lib/edgeseal/keep-boot status", `cat ${node.root}/status`)
      .replaceAll(/(?<![\w.])\/(run|sys|etc)\/(?=edgeseal|class)/g, `${node.root}/$1/`);
    const { status, stdout, stderr } = spawnSync("sh", ["-c", 'eval "$(cat)"'], {
      input: here,
      encoding: "utf8",
    });
    return Promise.resolve({ code: status ?? 1, stdout, stderr });
  };
  return { ...localSession(node), run };
}

const read = () => readUpdate(connection, { session: session() });

test("a node says in one exec where it is in an update, what it measured, and which volumes are open", async () => {
  expect(await read()).toMatchObject({
    phase: "none",
    reason: undefined,
    keptPolicy: "ab".repeat(32),
    hasBooted: undefined,
    approved: new Set(["cd".repeat(32)]),
    signedBy: new Set(["ef".repeat(32)]),
    pcr11: pcr11Of(measured),
    consistent: true,
    volumes: { logs: false, models: true },
    bootId: expect.stringMatching(/^[0-9a-f-]{36}$/) as unknown,
  });
});

test("one that went back says why, and has to have a copy to go back to", async () => {
  node.write("/status", "phase=back\nreason=the volume models stays locked: tpm-refused\nbooted=yes\n");
  expect(await read()).toMatchObject({
    phase: "back",
    reason: "the volume models stays locked: tpm-refused",
    hasBooted: true,
    keptPolicy: undefined,
  });
});

test("a log that does not lead to the TPM's value is not consistent", async () => {
  node.write("/sys/class/tpm/tpm0/pcr-sha256/11", "12".repeat(32));
  expect(await read()).toMatchObject({ consistent: false });
});

test.each(["/status", "/run/edgeseal/measured/log", "/sys/class/tpm/tpm0/pcr-sha256/11"])(
  "a node without %s can't say it, and is told what it takes",
  async (path) => {
    node.remove(path);
    await expect(read()).rejects.toMatchObject({
      name: "DeviceError",
      hint: expect.stringContaining("measured boot") as unknown,
    });
  },
);

test("an answer that is not understood is not taken for anything", async () => {
  node.write("/status", "phase=done\n");
  await expect(read()).rejects.toThrow("is not understood");
});

test.each(["soon", "299", "1e9", "-1", "90000"])(
  "--confirm-within %s is refused before anything is read",
  async (confirmWithin) => {
    const options: UpdateOptions = { site: "/nonexistent.yaml", confirmWithin, wayBack: true };
    await expect(update("pi-1", options)).rejects.toThrow("--confirm-within takes whole seconds");
  },
);
