/** What a unit may do besides what every program may. */
export interface Privileges {
  /** E.g. `CAP_NET_ADMIN`. */
  readonly capabilities: readonly string[];
  /** E.g. `AF_NETLINK`. */
  readonly addressFamilies: readonly string[];
  /** Groups of system calls besides those of a service without privileges, e.g. `@chown`. */
  readonly systemCalls?: readonly string[];
}

/**
 * Lines of a `[Service]` section that take from a program of edgeseal, which root runs, what it has no use for (systemd.exec(5)).
 *
 * None of them is one that gives the unit a mount namespace of its own (`ProtectSystem=`, `PrivateTmp=`, ...): that can fail where something is not mounted or is full, early in a boot
 * above all, and what these units do, such as loading the firewall, has to be done in every boot. Nor would a mount that is made in one be there for the node. What is refused is an error of
 * the call, not the end of the program.
 */
export const sandbox = ({ capabilities, addressFamilies, systemCalls = [] }: Privileges): string =>
  `NoNewPrivileges=yes
CapabilityBoundingSet=${capabilities.join(" ")}
RestrictAddressFamilies=${addressFamilies.join(" ")}
IPAddressDeny=any
SystemCallFilter=@system-service
SystemCallFilter=~@resources @privileged
${systemCalls.length === 0 ? "" : `SystemCallFilter=${systemCalls.join(" ")}\n`}SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes`;
