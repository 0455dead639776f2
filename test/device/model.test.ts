import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createDevices } from "../../provider/device/devices.ts";
import type { PlanResult } from "../../provider/device/plan-runner.ts";
import type { Session } from "../../provider/device/session.ts";
import type { Step } from "../../provider/device/step.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import type { ModelInputs } from "../../provider/resources/model-inputs.ts";
import type { ModelState } from "../../provider/resources/model-observation.ts";
import { model } from "../../provider/resources/model.ts";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { inputsFor, modelContent, otherKey, statementOn } from "../unit/resources/model-example.ts";
import { ask, testEveryInterruption } from "./interruption.ts";
import { apply, sessionTo } from "./steps-on-node.ts";
import { namedNote, noteFolder } from "./thirty-kinds.ts";

/*
 * Models on a node, with its own openssl, sha256sum and file systems: a folder that is mounted stands for the sealed volume.
 */

const place = { mountPoint: "/srv/models", directory: "/srv/models/models" };
const noRoute = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

let node: NamespaceNode;
let folder: string;
let first: ModelInputs;
let second: ModelInputs;

const contents = [modelContent(), modelContent()] as const;
const [firstHex, secondHex] = contents.map((content) => sha256Hex(content)) as [string, string];

async function inputsWithFile(content: Buffer): Promise<ModelInputs> {
  const file = join(folder, sha256Hex(content).slice(0, 8));
  await writeFile(file, content);
  return inputsFor(content, place, { file });
}

beforeAll(async () => {
  node = await NamespaceNode.start();
  folder = await mkdtemp(join(tmpdir(), "edgeseal-model-"));
  first = await inputsWithFile(contents[0]);
  second = await inputsWithFile(contents[1]);
});

afterAll(async () => {
  await node.stop();
  await rm(folder, { recursive: true });
});

const unmounted =
  "umount -l /srv/models 2>/dev/null; rm -rf /srv/models /srv/volume /etc/edgeseal /etc/systemd/system/edgeseal-*";
const blank = `${unmounted}; mkdir -m 0755 -p /srv/models /srv/volume; mount --bind /srv/volume /srv/models`;

beforeEach(() => node.must(blank));

const observe = async (session: Session, inputs: ModelInputs): Promise<ModelState> => {
  const observed = await ask(session, model.observe(inputs));
  if (observed.outcome === "absent") throw new Error("not observed");
  return observed.state;
};
const planOf = async (session: Session, inputs: ModelInputs): Promise<readonly Step[]> =>
  model.plan(inputs, { outcome: "present", state: await observe(session, inputs) }, noRoute);

/** Brings a model into place, or as far as it comes; steps may be exchanged on the way. */
async function bring(
  inputs: ModelInputs,
  change = (step: Step): Step => step,
): Promise<PlanResult & { readonly left: readonly Step[] }> {
  await using session = sessionTo(node.connection);
  const result = await apply(session, (await planOf(session, inputs)).map(change));
  const left = result.failure === undefined ? await planOf(session, inputs) : [];
  return { ...result, left };
}

const inPlace = async (inputs: ModelInputs): Promise<string> => {
  await using session = sessionTo(node.connection);
  const { model: verdict, digest } = await observe(session, inputs);
  return `${digest} ${verdict}`;
};

const listing = (): Promise<string> =>
  node.must("cd /srv/models && find . -mindepth 1 ! -type l -printf '%M %u:%g %P\\n' | sort -k 3");

describe("a model", () => {
  test("arrives, root's alone to change, and is taken back into place without being sent", async () => {
    const one = await bring(first);
    expect(one.failure).toBeUndefined();
    expect(one.left).toEqual([]);
    expect(await listing()).toBe(
      [
        "drwxr-xr-x root:root models",
        `dr-xr-xr-x root:root models/${firstHex}`,
        `-r--r--r-- root:root models/${firstHex}/model.gguf`,
        `-r--r--r-- root:root models/${firstHex}/statement.pae`,
        `-r--r--r-- root:root models/${firstHex}/statement.sig`,
        "",
      ].join("\n"),
    );
    expect(await node.must(`sha256sum </srv/models/models/current-llama/model.gguf`)).toBe(
      `${firstHex}  -\n`,
    );
    expect((await bring(second)).left).toEqual([]);
    expect(await inPlace(second)).toBe(`sha256:${secondHex} verified`);
    await rm(first.file ?? "");
    const { file: _, ...withoutFile } = first;
    const back = await bring(withoutFile);
    expect(back.steps.map(({ title }) => title)).toEqual([
      `let ${firstHex.slice(0, 12)} be the model llama that counts`,
    ]);
    expect(back.left).toEqual([]);
    await writeFile(first.file ?? "", contents[0]);
  });

  test("that a disk has spoilt is drift by that name, and mended from the file", async () => {
    await bring(first);
    await node.must(
      `printf x | dd of=/srv/models/models/${firstHex}/model.gguf bs=1 seek=4711 conv=notrunc status=none`,
    );
    expect(await inPlace(first)).toMatch(/^sha256:\S+ corrupted: its content has the digest sha256:/);
    const { file: _, ...withoutFile } = first;
    await expect(bring(withoutFile)).rejects.toThrow("and there is no file to bring it from");
    expect((await bring(first)).left).toEqual([]);
    expect(await inPlace(first)).toBe(`sha256:${firstHex} verified`);
  });

  test("is read through by who asks for it, once, and not by the plans of others", async () => {
    await bring(first);
    const kind = model as unknown as ResourceKind;
    const note = namedNote as unknown as ResourceKind;
    const inputs = { name: "note", content: "x\n" };
    await node.must(`mkdir -p ${noteFolder}`);
    const devices = createDevices({ kinds: [kind, note] });
    try {
      const device = devices.get(node.connection);
      const execs = async (work: () => Promise<unknown>): Promise<number> => {
        const before = await node.sshdCounts();
        await work();
        return (await node.sshdCounts()).execs - before.execs;
      };
      const look = async (): Promise<void> => {
        expect(await device.observe(kind, first)).toMatchObject({ state: { model: "verified" } });
      };
      await look();
      expect(await execs(look)).toBe(0);
      const write = namedNote.plan(inputs, { outcome: "absent" }, noRoute);
      expect(await execs(() => device.apply(note, inputs, write))).toBe(1);
      // What is known of the model is from before that plan, so it is read through again for who asks.
      expect(await execs(look)).toBe(1);
      const plan = model.plan(second, (await device.observe(kind, second)) as never, noRoute);
      // The upload, and the plan with what is read back.
      expect(await execs(() => device.apply(kind, second, plan))).toBe(2);
      expect(await device.observe(kind, second)).toMatchObject({ state: { digest: second.digest } });
    } finally {
      await devices.close();
    }
  });
});

describe("refused by the node, with what was there in place", () => {
  const verifying = (step: Step): boolean => step.title.startsWith("verify");
  const stdinFor = async (inputs: ModelInputs): Promise<string> => {
    await using session = sessionTo(node.connection);
    const step = (await planOf(session, inputs)).find(verifying);
    return step?.kind === "run" ? (step.stdin ?? "") : "";
  };

  test.each<[string, () => Promise<(step: Step) => Step>, string]>([
    [
      "other content under this digest",
      () => {
        // What an upload brings is what its step says, so that it is the folder's own check which is asked.
        const of = { source: second.file ?? "", bytes: contents[1].length, sha256: secondHex };
        return Promise.resolve((step) => (step.kind === "upload" ? { ...step, ...of } : step));
      },
      `refused: the content has the digest sha256:${secondHex}, not sha256:${firstHex}`,
    ],
    [
      "a signature that is none",
      async () => {
        const [pae = ""] = (await stdinFor(first)).split("\n");
        const stdin = `${pae}\n${Buffer.alloc(256, 7).toString("base64")}\n`;
        return (step) => (verifying(step) ? ({ ...step, stdin } as Step) : step);
      },
      "refused: the statement is signed by none of the keys that may sign (site)",
    ],
    [
      "a statement by another key",
      async () => {
        const statement = await statementOn(contents[0], otherKey);
        const stdin = await stdinFor({ ...first, keys: { site: otherKey.pem }, statement });
        return (step) => (verifying(step) ? ({ ...step, stdin } as Step) : step);
      },
      "refused: the statement is signed by none of the keys that may sign (site)",
    ],
    [
      "a statement for another digest",
      async () => {
        const other = await inputsFor(modelContent(), place, { file: "/nowhere" });
        const stdin = await stdinFor(other);
        return (step) => (verifying(step) ? ({ ...step, stdin } as Step) : step);
      },
      `refused: the statement that site has signed is for another model than sha256:${firstHex}`,
    ],
  ])("%s", async (_what, change, said) => {
    expect((await bring(second)).left).toEqual([]);
    const before = await inPlace(second);
    const { failure } = await bring(first, await change());
    expect(failure?.message).toContain(said);
    expect(await node.must(`test ! -e /srv/models/models/${firstHex} && echo none`)).toBe("none\n");
    expect(await inPlace(second)).toBe(before);
    // The control: as it is meant, it is taken, and what the refusal left goes.
    expect((await bring(first)).left).toEqual([]);
  });

  test("a volume that is not mounted: no byte of the model on the plain root", async () => {
    await node.must("umount -l /srv/models");
    await expect(bring(first)).rejects.toThrow("nothing is mounted at /srv/models");
    await node.must(blank);
    await using session = sessionTo(node.connection);
    const steps = await planOf(session, first);
    await node.must("umount -l /srv/models");
    const { failure } = await apply(session, steps);
    expect(failure?.kind).toBe("preconditionFailed");
    expect(await node.must("ls -A /srv/models /srv/volume; test ! -e /etc/edgeseal && echo none")).toBe(
      "/srv/models:\n\n/srv/volume:\nnone\n",
    );
  });
});

test("a former model that a unit names stays, whatever is to be kept", async () => {
  const none = { ...second, keep: 0 };
  await bring(first);
  await node.must(`echo 'ExecStart=podman ${firstHex}' >/etc/systemd/system/edgeseal-inference.service`);
  expect((await bring(none)).left).toEqual([]);
  expect(await node.must(`test -f /srv/models/models/${firstHex}/model.gguf && echo there`)).toBe("there\n");
  await node.must("rm /etc/systemd/system/edgeseal-inference.service");
  expect((await bring(none)).left).toEqual([]);
  expect(await node.must(`ls -A /srv/models/models`)).toBe(
    `${[secondHex, "current-llama"].sort().join("\n")}\n`,
  );
});

test("another key that signs, cut off before and after each step, is told to the folder that a container has mounted", async () => {
  const { file: _, ...withoutFile } = first;
  const rotated = {
    ...withoutFile,
    keys: { other: otherKey.pem },
    statement: await statementOn(contents[0], otherKey),
  };
  const cuts = await testEveryInterruption(model, rotated, node, {
    reset: async (at) => {
      await at.must(`umount /srv/served 2>/dev/null; ${blank}`);
      await bring(first);
      await at.must(`mkdir -p /srv/served && mount --bind /srv/models/models/${firstHex} /srv/served`);
    },
  });
  expect(cuts.length).toBeGreaterThanOrEqual(2 * 3);
  expect(
    await node.must(
      `cd /srv/served && openssl dgst -sha256 -verify /etc/edgeseal/model-keys/other.pem -signature statement.sig statement.pae && cd / && umount /srv/served`,
    ),
  ).toBe("Verified OK\n");
}, 600_000);

test("cut off before and after each step, a change of the model is brought to its end by the next plan", async () => {
  const before = `${blank}
mkdir -p /srv/models/models/${secondHex} /etc/edgeseal/model-keys
echo stale >/etc/edgeseal/model-keys/stale.pem; chmod 0777 /srv/models/models; ln -s ${secondHex} /srv/models/models/current-llama
echo x >/srv/models/.edgeseal-model.llama.${"0".repeat(64)}`;
  const cuts = await testEveryInterruption(model, { ...first, keep: 0 }, node, {
    reset: async (at) => {
      await at.must(before);
    },
  });
  expect(cuts.length).toBeGreaterThanOrEqual(2 * 8);
}, 600_000);
