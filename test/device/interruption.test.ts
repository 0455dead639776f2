import { afterAll, beforeAll, expect, test } from "vitest";
import { stepsOf } from "../../provider/device/plan-runner.ts";
import {
  debianPackage,
  directory,
  file,
  kernelModule,
  remove,
  run,
  sysctl,
  unit,
  type Step,
} from "../../provider/device/step.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { firewallChange } from "./firewall-change.ts";
import { ask, interruptEverywhere } from "./interruption.ts";
import { look } from "./steps-on-node.ts";

let node: NamespaceNode;

beforeAll(async () => {
  node = await NamespaceNode.start();
});

afterAll(() => node.stop());

const plainSteps: readonly Step[] = [
  directory({ title: "make the directory", path: "/etc/cut.d", mode: "0750" }),
  file({ title: "write the file", path: "/etc/cut.d/conf", content: "content\n", mode: "0640" }),
  file({
    title: "write the unit",
    path: "/etc/systemd/system/cut.service",
    content:
      "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
    mode: "0644",
  }),
  unit({
    title: "enable and start it",
    unit: "cut.service",
    enabled: true,
    active: true,
    daemonReload: true,
  }),
  sysctl({ title: "set the parameter", key: "net.ipv4.ip_forward", value: "1" }),
  kernelModule({ title: "have the module not loaded", module: "no-such-module", loaded: false }),
  debianPackage({ title: "have the package not installed", package: "no-such-package", installed: false }),
  remove({ title: "remove the old file", path: "/etc/cut-old" }),
  run({ title: "run the command", script: "cat >/etc/cut.d/ran", stdin: "given" }),
];

/** One line for each thing that the plan is to bring about. */
const looks = look(`stat -c '%n %a' /etc/cut.d /etc/cut.d/conf; cat /etc/cut.d/conf /etc/cut.d/ran
systemctl is-enabled cut.service; systemctl is-active cut.service; cat /proc/sys/net/ipv4/ip_forward
ls -A /etc | grep -e cut-old -e edgeseal-new; ls -A /etc/cut.d; ls -A /run/edgeseal | grep -v work; :`);

const end =
  "/etc/cut.d 750\n/etc/cut.d/conf 640\ncontent\ngivenenabled\nactive\n1\nconf\nran\nfence\nguard\nlock\n";

const resetPlain = async (): Promise<void> => {
  await node.must(`systemctl disable --now cut.service 2>/dev/null; rm -rf /etc/cut.d /etc/systemd/system/cut.service; systemctl daemon-reload
echo 0 >/proc/sys/net/ipv4/ip_forward; echo old >/etc/cut-old`);
};

test("a plan with every kind of step, cut off before and after each, is brought to its end by the next", async () => {
  const points = await interruptEverywhere(
    {
      reset: resetPlain,
      plan: async (session) => ((await ask(session, looks)) === end ? [] : plainSteps),
    },
    node,
  );
  expect(points).toEqual(plainSteps.flatMap(({ title }) => [`before ${title}`, `after ${title}`]));
}, 300_000);

test("a commit-confirmed change, cut off before and after each of its points, is in force after the next plan", async () => {
  const change = firewallChange("  counter accept", { windowSeconds: 5 });
  const inForce = look(
    "nft list table inet change 2>&1; ls -A /var/lib/edgeseal; systemctl list-timers --all --no-legend 'edgeseal-*'",
  );
  const points = await interruptEverywhere(
    {
      reset: async () => {
        await node.must(
          "nft delete table inet change 2>/dev/null; systemctl disable edgeseal-revert.service 2>/dev/null; rm -rf /var/lib/edgeseal /etc/change.nft /etc/systemd/system/edgeseal-revert.service; systemctl daemon-reload",
        );
      },
      plan: async (session) => {
        const seen = await ask(session, inForce);
        return seen.includes("accept") && !/pending|reverting|window/.test(seen) ? [] : [change];
      },
    },
    node,
  );
  expect(points).toHaveLength(2 * stepsOf([change]).length);
}, 300_000);
