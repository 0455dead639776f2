import { nothingToDo } from "../refresh.ts";
import { holds, onNode, type DemoStep } from "../step.ts";
import { isShown, tamper, type Tampering } from "../tampering.ts";
import { inForce } from "./apply.ts";

const tamperings: readonly Tampering[] = [
  {
    what: "a swap file is switched on",
    script:
      "fallocate -l 16M /root/behind && chmod 600 /root/behind && mkswap -q /root/behind && swapon /root/behind",
    shows: "Swap.activeAreas",
  },
  {
    what: "a firewall rule is added",
    script: "nft insert rule inet edgeseal output ip daddr 198.51.100.7 accept",
    shows: 'Firewall.rules["unmanaged: output accept ip daddr 198.51.100.7"]',
  },
  {
    what: "a firewall rule is deleted",
    script:
      'nft delete rule inet edgeseal output handle "$(nft -a list chain inet edgeseal output | sed -n "s/.*allow:api.*# handle //p")"',
    shows: 'Firewall.rules["allow:api"]',
  },
  { what: "a sysctl is changed", script: "sysctl -qw fs.suid_dumpable=1", shows: "CoreDumps.suidDumpable" },
  {
    what: "the core pattern is changed",
    script: "sysctl -qw kernel.core_pattern=/var/tmp/core.%p",
    shows: "CoreDumps.corePattern",
  },
  {
    what: "a unit is unmasked",
    script: "systemctl -q unmask systemd-coredump.socket",
    shows: "CoreDumps.dumpCollectors",
  },
];

export const drift: DemoStep = {
  title: "Drift is found and mended",
  proves:
    "pulumi refresh names exactly what was changed behind our back, property by property; up mends it; then there is nothing left to do",
  async run(context) {
    const found = await tamper(context, tamperings);
    const others = found.filter((each) => !tamperings.some((tampering) => isShown(each, tampering)));
    holds(context, others.length === 0, "and nothing else", others.join("\n"));

    const mend = await context.pulumi.run(["up", "--yes", "--stack", "demo"], { signal: context.signal });
    holds(context, mend.code === 0, "pulumi up mends it", mend.stdout + mend.stderr);
    const left = await onNode(context, "ls /root/behind 2>/dev/null || :");
    holds(context, left === "", "the file that was swapped to is gone: prompts may be in it", left);
    await inForce(context);
    await nothingToDo(context);
  },
};
