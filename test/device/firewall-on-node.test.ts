import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diffState } from "../../provider/diff.ts";
import type { ApplyResult, Device, Devices } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import type { Step } from "../../provider/device/step.ts";
import type { ResourceKind, Route } from "../../provider/resource.ts";
import type { FirewallInputs, FirewallState } from "../../provider/resources/firewall-inputs.ts";
import { firewall } from "../../provider/resources/firewall.ts";
import { NamespaceNode, network } from "../../testbed/namespace/node.ts";
import { nodeFirewall } from "./node-firewall.ts";

const kind = firewall as unknown as ResourceKind;

/** Right by itself, and it shuts out the connection in use. */
const lockingOut: FirewallInputs = { ...nodeFirewall, management: [`${network.otherOperator}/32`] };

/** As where the device does not say from where we come: then only commit-confirm can catch what would lock us out. */
const unknownRoute: Route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

/** A table of somebody else, and a service that stands for whatever brings the network up. */
const surroundings = `set -e
nft -f - <<'END'
table ip somebody {
  chain c {
    type filter hook input priority 10
    tcp dport 9 drop
  }
}
END
cat > /etc/systemd/system/networking.service <<'END'
[Unit]
DefaultDependencies=no
After=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --now networking.service`;

/** A node with the provider's own way to it. */
class Subject implements AsyncDisposable {
  readonly node: NamespaceNode;
  #devices: Devices = createDevices({ kinds: [kind] });

  private constructor(node: NamespaceNode) {
    this.node = node;
  }

  static async start(): Promise<Subject> {
    const subject = new Subject(await NamespaceNode.start());
    await subject.node.must(surroundings);
    return subject;
  }

  get device(): Device {
    return this.#devices.get(this.node.connection);
  }

  /** Like another run of the provider: a new connection, nothing known. */
  async afresh(): Promise<void> {
    await this.#devices.close();
    this.#devices = createDevices({ kinds: [kind] });
  }

  async differences(of = nodeFirewall): Promise<string[]> {
    await this.afresh();
    const observed = await this.device.observe<FirewallState>(kind, of);
    if (observed.outcome === "absent") return ["absent"];
    return diffState(firewall.desired(of), observed.state).map(({ path }) => path);
  }

  async loaded(): Promise<string> {
    await this.afresh();
    const observed = await this.device.observe<FirewallState>(kind, nodeFirewall);
    return observed.outcome === "absent" ? "nothing of ours" : observed.state.loaded;
  }

  async plan(of = nodeFirewall, route?: Route): Promise<readonly Step[]> {
    await this.afresh();
    const observed = await this.device.observe<FirewallState>(kind, of);
    return firewall.plan(of, observed, route ?? (await this.device.route()));
  }

  async up(of = nodeFirewall): Promise<void> {
    const { failure, observed } = await this.apply(of, await this.plan(of));
    if (failure !== undefined) throw failure;
    if (observed.outcome === "absent") throw new Error("nothing was read back");
    expect(diffState(firewall.desired(of), observed.state)).toEqual([]);
  }

  apply(of: FirewallInputs, steps: readonly Step[]): Promise<ApplyResult<FirewallState>> {
    return this.device.apply<FirewallState>(kind, of, steps);
  }

  listing(): Promise<string> {
    return this.node.must("nft -s list table inet edgeseal 2>/dev/null || echo none");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#devices.close();
    await this.node.stop();
  }
}

/** The window of a test is short: what waits for its end is the test. */
const withWindow = (steps: readonly Step[], windowSeconds: number): Step[] =>
  steps.map((step) => (step.kind === "commitConfirm" ? { ...step, windowSeconds } : step));

/** One node, from its first apply to the last: each test leaves it in order for the next. */
describe("a node's life with the firewall", () => {
  let subject: Subject;
  let foreign: string;
  beforeAll(async () => {
    subject = await Subject.start();
    foreign = await subject.node.must("nft list table ip somebody");
  });
  afterAll(() => subject[Symbol.asyncDispose]());

  test("nothing of ours is absent", async () => {
    expect(await subject.differences()).toEqual(["absent"]);
  });

  test("the first apply puts it in force, all of it, and then there is nothing left to plan", async () => {
    await subject.up();
    expect(await subject.differences()).toEqual([]);
    expect(await subject.plan()).toEqual([]);
  });

  test("the table of somebody else is as it was, and reported", async () => {
    expect(await subject.node.must("nft list table ip somebody")).toBe(foreign);
    const observed = await subject.device.observe<FirewallState>(kind, nodeFirewall);
    expect(observed).toMatchObject({ state: { foreignTables: ["ip somebody"] } });
  });

  test("systemd finds no fault with the unit", async () => {
    const verdict = await subject.node.exec(
      "cd /; systemd-analyze verify /etc/systemd/system/edgeseal-firewall.service /usr/lib/systemd/system/nftables.service 2>&1",
    );
    expect(verdict.stdout.split("\n").filter((line) => line.includes("edgeseal"))).toEqual([]);
  });

  test.each([
    ["stopping the unit", "systemctl stop edgeseal-firewall.service"],
    ["restarting it", "systemctl restart edgeseal-firewall.service"],
    [
      "reloading it with a broken file",
      "cp -p /etc/edgeseal/firewall.nft /run/kept; echo broken >> /etc/edgeseal/firewall.nft; systemctl reload edgeseal-firewall.service; s=$?; cp -p /run/kept /etc/edgeseal/firewall.nft; exit $s",
    ],
  ])("%s is refused, and the rules stay", async (_, command) => {
    expect((await subject.node.exec(command)).code).not.toBe(0);
    expect(await subject.differences()).toEqual([]);
  });

  test.each(["start", "reload", "restart", "stop"])(
    "`systemctl %s nftables` leaves our rules in force",
    async (verb) => {
      await subject.node.must(`systemctl ${verb} nftables.service`);
      expect(await subject.differences()).toEqual([]);
    },
  );

  test("without our drop-in it would have taken them away, and that is named", async () => {
    await subject.node.must(
      "systemctl start nftables.service; rm /etc/systemd/system/nftables.service.d/edgeseal.conf; systemctl daemon-reload",
    );
    expect(await subject.differences()).toEqual([
      'files["/etc/systemd/system/nftables.service.d/edgeseal.conf"]',
      "nftablesService",
    ]);
    await subject.node.must("systemctl stop nftables.service");
    expect(await subject.loaded()).toBe("absent");
    await subject.up();
    await subject.node.must(surroundings);
  });

  test.each([
    [
      "a rule deleted",
      `handle=$(nft -a list chain inet edgeseal output | sed -n 's/.*allow:api.*handle //p'); nft delete rule inet edgeseal output handle "$handle"`,
      ['rules["allow:api"]'],
    ],
    [
      "a rule added",
      "nft insert rule inet edgeseal output ip daddr 198.51.100.7 accept",
      ['rules["unmanaged: output accept ip daddr 198.51.100.7"]'],
    ],
    ["a policy changed", "nft 'chain inet edgeseal input { policy accept; }'", ["inputPolicy"]],
    ["the table turned off", "nft 'add table inet edgeseal { flags dormant; }'", ["loaded"]],
    [
      "a file edited",
      "echo '# x' >> /etc/edgeseal/firewall-fallback.nft",
      ['files["/etc/edgeseal/firewall-fallback.nft"]'],
    ],
    ["a file opened to all", "chmod 644 /etc/edgeseal/firewall.nft", ['files["/etc/edgeseal/firewall.nft"]']],
    [
      "the unit disabled",
      "systemctl --quiet disable edgeseal-firewall.service",
      ["bootUnit.state", "bootUnit.linkedFrom"],
    ],
    [
      "one link removed",
      "rm /etc/systemd/system/networking.service.requires/edgeseal-firewall.service",
      ["bootUnit.linkedFrom"],
    ],
    [
      "the unit overridden",
      "mkdir -p /etc/systemd/system/edgeseal-firewall.service.d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/edgeseal-firewall.service.d/x.conf; systemctl daemon-reload",
      ["bootUnit.overrides"],
    ],
    [
      "the unit overridden at the next boot",
      "mkdir -p /etc/systemd/system/edgeseal-firewall.service.d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/edgeseal-firewall.service.d/x.conf",
      ["bootUnit.overrides"],
    ],
    [
      "every unit of ours overridden",
      "mkdir -p /etc/systemd/system/edgeseal-.service.d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/edgeseal-.service.d/x.conf; systemctl daemon-reload",
      ["bootUnit.overrides"],
    ],
    [
      "the unit hidden by another",
      "mkdir -p /etc/systemd/system.control; printf '[Unit]\\nBefore=network-pre.target\\n[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n' > /etc/systemd/system.control/edgeseal-firewall.service; systemctl daemon-reload",
      ["bootUnit.overrides"],
    ],
    [
      "a link that leads nowhere",
      "ln -sfn /dev/null /etc/systemd/system/sysinit.target.wants/edgeseal-firewall.service",
      ["bootUnit.linkedFrom"],
    ],
  ])("%s is found as exactly that, and mended", async (_, tamper, paths) => {
    await subject.node.must(tamper);
    expect(await subject.differences()).toEqual(paths);
    await subject.up();
    expect(await subject.differences()).toEqual([]);
  });

  test("after a reboot all is in force, from before the network", async () => {
    await subject.node.reboot();
    expect(await subject.differences()).toEqual([]);
    const times = await subject.node.must(
      "systemctl show -P ActiveEnterTimestampMonotonic edgeseal-firewall.service network-pre.target networking.service",
    );
    const [loaded = 0, ...network] = times.trim().split(/\s+/).map(Number);
    expect(loaded).toBeGreaterThan(0);
    for (const later of network) expect(later).toBeGreaterThan(loaded);
  });

  test("after a power cut too", async () => {
    await subject.node.powerCut();
    await subject.node.boot();
    expect(await subject.differences()).toEqual([]);
  });

  test("a boot that can't load the rules has the fallback: management gets in, and mends it", async () => {
    await subject.node.must("echo broken >> /etc/edgeseal/firewall.nft");
    await subject.node.reboot();
    expect(await subject.loaded()).toBe("fallback");
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
    await subject.up();
    expect(await subject.differences()).toEqual([]);
  });

  test("a boot that can load neither has no network", async () => {
    await subject.node.must("for f in /etc/edgeseal/*.nft; do cp -p $f $f.kept; echo broken >> $f; done");
    await subject.node.reboot();
    expect((await subject.node.exec("systemctl is-active networking.service")).stdout).toBe("inactive\n");
    await subject.node.must("for f in /etc/edgeseal/*.nft; do mv $f.kept $f; done");
    await subject.node.reboot();
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
    expect(await subject.differences()).toEqual([]);
  });

  test("rules that would lock us out are refused where that is known", async () => {
    await expect(subject.plan(lockingOut)).rejects.toThrow(
      /management: this connection comes from .*would lock us out/,
    );
  });

  test("and where it is not known, the device takes them back and says so", async () => {
    const before = await subject.listing();
    const steps = withWindow(await subject.plan(lockingOut, unknownRoute), 8);
    const { failure } = await subject.apply(lockingOut, steps);
    expect(failure).toMatchObject({ kind: "rolledBack" });
    expect(failure?.message).toContain("the rules loaded before");
    expect(await subject.listing()).toBe(before);
    expect(await subject.differences()).toEqual([]);
  });

  test("rules that this node's nft refuses change nothing", async () => {
    const before = await subject.listing();
    const changed = { ...nodeFirewall, dns: ["192.0.2.53"] };
    const steps = await subject.plan(changed);
    const broken = steps.map((step) =>
      step.kind === "run" ? { ...step, stdin: `${step.stdin ?? ""}\nbroken\n` } : step,
    );
    expect((await subject.apply(changed, broken)).failure).toMatchObject({ kind: "stepFailed" });
    expect(await subject.listing()).toBe(before);
    expect(await subject.differences()).toEqual([]);
  });

  test("taken back on request while nft is gone, it says that the table stays", async () => {
    await subject.afresh();
    await subject.up();
    await subject.node.must("mv /usr/sbin/nft /usr/sbin/nft.away");
    const observed = await subject.device.observe<FirewallState>(kind, nodeFirewall);
    const { failure } = await subject.apply(nodeFirewall, firewall.revert(nodeFirewall, observed));
    await subject.node.must("mv /usr/sbin/nft.away /usr/sbin/nft");
    expect(failure).toMatchObject({ kind: "stepFailed" });
    expect(failure?.message).toContain("stays in force until a reboot");
    expect(await subject.listing()).not.toBe("none\n");
    await subject.afresh();
    await subject.up();
    expect(await subject.differences()).toEqual([]);
  });

  test("taken back on request, it leaves nothing of ours, and the network and others' rules alone", async () => {
    await subject.afresh();
    const observed = await subject.device.observe<FirewallState>(kind, nodeFirewall);
    const { failure } = await subject.apply(nodeFirewall, firewall.revert(nodeFirewall, observed));
    if (failure !== undefined) throw failure;
    expect(await subject.differences()).toEqual(["absent"]);
    expect(await subject.listing()).toBe("none\n");
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
    expect(
      await subject.node.must(
        "find /etc -path '/etc/edgeseal*' -o ! -type d '(' -name '*edgeseal-firewall*' -o -name edgeseal.conf ')'",
      ),
    ).toBe("");
    await subject.node.reboot();
    expect(await subject.differences()).toEqual(["absent"]);
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
  });
});

describe("a first apply that is never confirmed", () => {
  let subject: Subject;
  beforeAll(async () => {
    subject = await Subject.start();
  });
  afterAll(() => subject[Symbol.asyncDispose]());

  test("leaves the node as it was, network included, when the window ends", async () => {
    const steps = withWindow(await subject.plan(lockingOut, unknownRoute), 8);
    const { failure } = await subject.apply(lockingOut, steps);
    expect(failure).toMatchObject({ kind: "rolledBack" });
    expect(failure?.message).toContain("no edgeseal table");
    expect(await subject.differences()).toEqual(["absent"]);
    expect(await subject.listing()).toBe("none\n");
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
  });

  test("leaves it so when the power is cut within the window", async () => {
    const steps = withWindow(await subject.plan(lockingOut, unknownRoute), 600);
    const applying = subject.apply(lockingOut, steps).catch((error: unknown) => error);
    await subject.node.must(
      `timeout 30 sh -c 'until nft list table inet edgeseal >/dev/null 2>&1 && systemctl -q is-active edgeseal-firewall.service; do :; done'`,
    );
    await subject.node.powerCut();
    await subject.afresh();
    await applying;
    await subject.node.boot();
    expect(await subject.differences()).toEqual(["absent"]);
    expect(await subject.listing()).toBe("none\n");
    expect(await subject.node.must("systemctl is-active networking.service")).toBe("active\n");
  });
});
