import { setTimeout as pause } from "node:timers/promises";
import { expect, test } from "vitest";
import { NamespaceNode } from "../../testbed/namespace/node.ts";

test("a script that runs while the node goes off ends with it, and does not keep it from that", async () => {
  await using node = await NamespaceNode.start();
  const running = node.exec("echo $$ >/run/script; exec sleep 600");
  while ((await node.exec("test -s /run/script")).code !== 0) await pause(50);

  const first = await node.must("cat /proc/sys/kernel/random/boot_id");
  const back = node.bootAfterReset();
  await node.must("systemctl reboot");
  expect((await running).code).not.toBe(0);
  await back;
  expect(await node.must("cat /proc/sys/kernel/random/boot_id")).not.toBe(first);
});
