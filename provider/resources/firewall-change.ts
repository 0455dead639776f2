import {
  commitConfirm,
  directory,
  file,
  remove,
  run,
  type CommitConfirmStep,
  type RemoveStep,
  type Step,
} from "../device/step.ts";
import { bootUnitName, managedFiles, paths } from "./firewall-boot.ts";
import type { FirewallInputs } from "./firewall-inputs.ts";
import { replaceTable, table } from "./firewall-ruleset.ts";

/** Asks the node's own nft and kernel, without changing anything: a rule set that they refuse stops the plan before its first change. */
export function rulesetChecks(inputs: FirewallInputs): Step[] {
  return managedFiles(inputs)
    .filter(({ path }) => path.endsWith(".nft"))
    .map(({ path, content }) =>
      run({ title: `let the node's nft check what becomes ${path}`, script: "nft -c -f -", stdin: content }),
    );
}

/** Removes a file of somebody else that changes our boot unit. */
export const removeOverride = (path: string): RemoveStep =>
  remove({ title: `remove ${path}, which changes ${bootUnitName}`, path });

/**
 * Files, rules and boot unit, as one change that the device takes back by itself.
 * @param overrides drop-ins of somebody else that change our boot unit.
 */
export function loadRuleset(
  inputs: FirewallInputs,
  overrides: readonly string[],
  rollbackTo: string,
): CommitConfirmStep {
  const files = managedFiles(inputs);
  return commitConfirm({
    title: "put the firewall in force",
    apply: [
      directory({ title: `make ${paths.directory}`, path: paths.directory, mode: "0755" }),
      directory({ title: `make ${paths.nftablesDirectory}`, path: paths.nftablesDirectory, mode: "0755" }),
      ...files.map(({ path, mode, content }) =>
        file({ title: `write ${path}`, path, mode, content, owner: "root:root" }),
      ),
      ...overrides.map(removeOverride),
      run({ title: "load the rules", script: `nft -f ${paths.ruleset}` }),
      // reenable, since a single missing link leaves a unit "enabled"; one reload for all of it, since each runs every generator.
      run({
        title: "have the rules loaded at every boot, before the network",
        script: `systemctl --quiet --no-reload reenable ${bootUnitName} && systemctl daemon-reload && systemctl start ${bootUnitName}`,
      }),
    ],
    windowSeconds: inputs.confirmSeconds,
    files: [...files.map(({ path }) => path), ...overrides],
    save,
    restore,
    rollbackTo,
  });
}

const links = `/etc/systemd/system/*.wants/${bootUnitName} /etc/systemd/system/*.requires/${bootUnitName}`;

const save = `tables=$(nft list tables) || exit 1
if printf '%s\\n' "$tables" | grep -qx 'table ${table}'; then nft -s list table ${table} > "$EDGESEAL_SAVED/table.nft" || exit 1; fi
for link in ${links}; do
  if [ -L "$link" ]; then printf '%s\\n' "$link"; fi
done > "$EDGESEAL_SAVED/links"`;

/**
 * The kernel first, since that is what cuts the connection. systemd is told only when it runs the unit already: at a boot that reverts, the unit's job waits,
 * a network service waits for it, and stopping it or reloading would fail both; its conditions let it pass instead, as the files are gone.
 */
const restore = `status=0
if [ -f "$EDGESEAL_SAVED/table.nft" ]; then
  { printf '%s\\n' '${replaceTable.replace("\n", "' '")}'; cat "$EDGESEAL_SAVED/table.nft"; } | nft -f - || status=1
else
  printf '%s\\n' '${replaceTable.replace("\n", "' '")}' | nft -f - || status=1
fi
for link in ${links}; do
  if [ -L "$link" ]; then rm -f "$link" || status=1; fi
done
while IFS= read -r link; do
  mkdir -p "\${link%/*}" && ln -sf ${paths.bootUnit} "$link" || status=1
done < "$EDGESEAL_SAVED/links"
if systemctl --quiet is-active ${bootUnitName}; then
  systemctl daemon-reload || status=1
  if [ ! -e ${paths.bootUnit} ]; then systemctl stop ${bootUnitName} || status=1; fi
fi
exit "$status"`;

/** Takes everything of ours away; what others have is left as it is. */
export function unloadRuleset(overrides: readonly string[]): Step[] {
  const files = [paths.bootUnit, paths.nftablesDropIn, paths.ruleset, paths.fallback, ...overrides];
  return [
    // Links first: while a network service requires the unit, stopping the unit would stop the network.
    run({
      title: `take ${bootUnitName} out of the boot`,
      script: `for link in ${links}; do if [ -L "$link" ]; then rm -f "$link" || exit 1; fi; done`,
    }),
    ...files.map((path) => remove({ title: `remove ${path}`, path })),
    run({
      title: `remove table ${table}`,
      script: `systemctl daemon-reload || exit 1
if systemctl --quiet is-active ${bootUnitName}; then systemctl stop ${bootUnitName} || exit 1; fi
for each in ${paths.nftablesDirectory} ${paths.directory}; do
  if [ -d "$each" ]; then rmdir --ignore-fail-on-non-empty "$each" || exit 1; fi
done
if command -v nft >/dev/null 2>&1; then printf '%s\\n' '${replaceTable.replace("\n", "' '")}' | nft -f - || exit 1
else echo 'nft is not there any more, so table ${table}, if it is loaded, stays in force until a reboot or until nft is installed again and deletes it' >&2; exit 1; fi`,
    }),
  ];
}
