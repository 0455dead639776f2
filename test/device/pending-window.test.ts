import { expect, test } from "vitest";
import { createDevices } from "../../provider/device/devices.ts";
import { commitConfirm, file } from "../../provider/device/step.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { kinds, noteFolder } from "./thirty-kinds.ts";

const inputs = { name: "window", content: "new\n" };
const path = `${noteFolder}/window`;

test(
  "what is looked at within somebody's window is what is there when it is over",
  { timeout: 90_000 },
  async () => {
    await using node = await NamespaceNode.start();
    await node.must(`mkdir -p ${noteFolder}; echo old >${path}`);
    const dying = createDevices({
      kinds,
      breakpoint: { at: "0:confirm", when: "before", reached: () => void dying.close() },
    });
    const kind = kinds.at(-1) ?? expect.fail("no kind");
    const change = commitConfirm({
      title: "write the note",
      apply: [file({ title: "write the note", path, content: inputs.content, mode: "0644" })],
      files: [path],
      save: ":",
      restore: ":",
      rollbackTo: "the old note",
      windowSeconds: 8,
    });
    // The provider goes away before it confirms.
    await expect(dying.get(node.connection).apply(kind, inputs, [change])).rejects.toThrow();
    // The control: at this moment the node has the new content, and a plain look would have believed it.
    expect(await node.must(`cat ${path}; ls -d /var/lib/edgeseal/pending`)).toBe(
      "new\n/var/lib/edgeseal/pending\n",
    );

    const next = createDevices({ kinds });
    try {
      const observed = await next.get(node.connection).observe(kind, inputs);
      expect(observed).toEqual({ outcome: "present", state: { content: "old\n" } });
      expect(await node.must(`cat ${path}`)).toBe("old\n");
    } finally {
      await next.close();
    }
  },
);
