import { commitConfirm, file, run, type CommitConfirmStep } from "../../provider/device/step.ts";

/** Where the change keeps its rules; no other test uses it. */
export const rulesPath = "/etc/change.nft";

/**
 * A firewall as a commit-confirmed change: one table of its own with these rules for what comes in. `save` and `restore` treat the kernel's rules, `files` the file.
 */
export function firewallChange(rules: string, overrides: Partial<CommitConfirmStep> = {}): CommitConfirmStep {
  const content = `table inet change\ndelete table inet change\ntable inet change {\n chain input {\n  type filter hook input priority 0\n${rules}\n }\n}\n`;
  return commitConfirm({
    title: "load the rules",
    apply: [
      file({ title: "write the rules", path: rulesPath, content, mode: "0600" }),
      run({ title: "load them", script: `nft -f ${rulesPath}` }),
    ],
    files: [rulesPath],
    save: `nft list table inet change >"$EDGESEAL_SAVED/table" 2>/dev/null || rm -f "$EDGESEAL_SAVED/table"`,
    restore: `nft delete table inet change 2>/dev/null
if [ -e "$EDGESEAL_SAVED/table" ]; then nft -f "$EDGESEAL_SAVED/table"; fi`,
    rollbackTo: "the rules before",
    windowSeconds: 6,
    ...overrides,
  });
}

/** Everybody may come in. */
export const open = firewallChange("  counter accept");

/** The same in effect, told apart by its comment. */
export const openToo = firewallChange('  counter accept comment "second"');

/** Nobody may, not even on the connection in use. */
export const lockout = firewallChange("  tcp dport 22 drop");
