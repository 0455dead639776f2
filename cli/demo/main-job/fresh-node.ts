import { holds, onNode, type DemoStep } from "../step.ts";

export const freshNode: DemoStep = {
  title: "A fresh node boots",
  proves:
    "the node starts out unprotected: swap, zram and core dumps on, no firewall of ours, somebody else's table present",
  async run(context) {
    const swaps = await onNode(context, "cat /proc/swaps");
    holds(context, swaps.includes("/swapfile"), "a swap file is active", swaps);
    holds(context, swaps.includes("/dev/zram"), "a zram device is swapped to", swaps);
    const backing = await onNode(context, "cat /sys/block/zram0/backing_dev");
    holds(
      context,
      backing.trim() !== "none",
      "zram writes back to a file that swapon does not list",
      backing,
    );
    const dump = await onNode(context, crashTest(60));
    holds(context, !dump.includes("dumps: 0"), "a crashing process leaves a core dump", dump);
    const tables = await onNode(context, "nft list tables");
    holds(context, !tables.includes("edgeseal"), "no firewall table of edgeseal", tables);
    holds(context, tables.includes("someone_else"), "somebody else's firewall table is loaded", tables);
  },
};

/**
 * Crashes a process of its own and counts the dumps that it left, wherever the kernel's pattern sends them. systemd-coredump stores in its own time, so
 * the count waits for a first dump, for at most `seconds` of the device's clock.
 */
export const crashTest = (seconds: number): string => `
cd /var/tmp
ulimit -c unlimited 2>/dev/null
sh -c 'kill -SEGV $$' & victim=$!
wait "$victim" 2>/dev/null
end=$(( $(cut -d. -f1 /proc/uptime) + ${seconds} ))
while :; do
  n=$(find /var/tmp /var/lib/systemd/coredump -maxdepth 1 \\( -name core -o -name "core.$victim" -o -name "core.*.$victim.*" \\) 2>/dev/null | wc -l)
  [ "$n" -eq 0 ] && [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || break
  sleep 0.5
done
rm -f /var/tmp/core "/var/tmp/core.$victim"
echo "pattern: $(cat /proc/sys/kernel/core_pattern)"
echo "dumps: $n"
`;
