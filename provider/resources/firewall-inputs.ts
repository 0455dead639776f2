import { Type, type Static } from "typebox";

const port = Type.Integer({ minimum: 1, maximum: 65535 });

const portOrRange = Type.Union(
  [port, Type.String({ pattern: "^[0-9]{1,5}-[0-9]{1,5}$", description: 'a range, e.g. "8000-8010"' })],
  { description: "Ports go by number, not by the name of a service: `http` is 80." },
);

const allowEntry = Type.Object(
  {
    name: Type.String({
      pattern: "^[a-z0-9][a-z0-9-]{0,62}$",
      description:
        "Stable name of the entry, unique in the list: lower-case letters, digits and hyphens. Its rule on the node is `allow:NAME`.",
    }),
    to: Type.Optional(
      Type.String({
        description:
          "For egress: the address or CIDR that the node may open connections to, e.g. `203.0.113.5` or `10.0.0.0/8`. No host names. Exactly one of `to` and `from` is given.",
      }),
    ),
    from: Type.Optional(
      Type.String({
        description:
          "For ingress: the address or CIDR that may open connections to the node. SSH is not opened here but by `management`.",
      }),
    ),
    protocol: Type.Enum(["tcp", "udp", "icmp", "any"], {
      default: "tcp",
      description:
        "`tcp`, `udp`, `icmp` (echo requests, of either IP version) or `any`. Default `tcp`: what nearly every service is, and the narrowest.",
    }),
    ports: Type.Optional(
      Type.Array(portOrRange, {
        minItems: 1,
        description:
          "Destination ports of `tcp` or `udp`: numbers, or ranges such as `8000-8010`. Default: every port.",
      }),
    ),
    comment: Type.Optional(
      Type.String({
        maxLength: 200,
        pattern: "^[^\\u0000-\\u001f\\u007f]*$",
        description: "One line for people: why this is allowed. Kept as a comment in the file on the node.",
      }),
    ),
  },
  { additionalProperties: false, description: "One allowed service: where to or from, and what." },
);

/** Inputs of `edgeseal:network:Firewall`. */
export const firewallInputs = Type.Object(
  {
    management: Type.Array(Type.String(), {
      minItems: 1,
      description:
        "CIDRs that operators connect from: the only sources that reach SSH, and that may ping the node. A single address is written with `/32` or `/128`. Required, since nothing good can be guessed.",
    }),
    sshPort: Type.Integer({
      minimum: 1,
      maximum: 65535,
      default: 22,
      description: "TCP port that sshd listens on. Default 22.",
    }),
    dns: Type.Array(Type.String(), {
      default: [],
      description:
        "Addresses of the DNS servers that the node may ask (UDP and TCP port 53). Default none: a resolver on the node itself is reached by loopback.",
    }),
    ntp: Type.Array(Type.String(), {
      default: [],
      description:
        "Addresses of the time servers that the node may ask (UDP port 123). Default none; a Pi has no clock battery, so name one.",
    }),
    allow: Type.Array(allowEntry, {
      default: [],
      description: "What else may pass. Everything not named here or above is rejected. Default nothing.",
    }),
    egress: Type.Enum(["allowlist", "open"], {
      default: "allowlist",
      description:
        "`allowlist`: the node opens connections only to what is listed. `open`: to anything, entries with `to` have no effect; the deployment gate refuses it. Default `allowlist`.",
    }),
    forward: Type.Enum(["drop", "leave"], {
      default: "drop",
      description:
        "`drop`: the node forwards nothing, so that no bridge or container network goes round the output rules; rootless containers (pasta, slirp4netns) need no forwarding. `leave`: no chain of ours on that hook, for rootful container networks. Default `drop`.",
    }),
    logPerMinute: Type.Integer({
      minimum: 0,
      maximum: 600,
      default: 10,
      description:
        "How many refused packets per minute and direction go to the kernel log (prefix `edgeseal input: ` and so on). 0 turns logging off. Default 10: enough to see what is refused, too little to fill a disk.",
    }),
    confirmSeconds: Type.Integer({
      minimum: 10,
      maximum: 3600,
      default: 30,
      description:
        "Seconds that the device gives a change of the rules, the change itself included, to be confirmed over a new connection; then it takes the change back. Default 30: a change takes about two on a Pi 5. More for a slow way in.",
    }),
  },
  { additionalProperties: false },
);

export type FirewallInputs = Static<typeof firewallInputs>;

/**
 * What is read back of `edgeseal:network:Firewall`. What can't be while no table of ours is in the kernel (policies, chains, rules) is left out then.
 */
export const firewallState = Type.Object(
  {
    loaded: Type.Enum(["ruleset", "fallback", "dormant", "absent", "unknown"], {
      description:
        "What is in the kernel: our `ruleset`; the `fallback` of a boot at which the ruleset could not be loaded; a table that is `dormant`, listed but not in effect; `absent`; or `unknown`, since nft is not installed, while the kernel may hold a table.",
    }),
    inputPolicy: Type.Optional(
      Type.String({ description: "Policy of the input chain in the kernel: `drop`." }),
    ),
    outputPolicy: Type.Optional(
      Type.String({
        description: "Policy of the output chain in the kernel: `drop`, or `accept` when egress is open.",
      }),
    ),
    forwardPolicy: Type.Optional(
      Type.String({
        description:
          "Policy of the forward chain in the kernel: `drop`, or `none` when there is no such chain.",
      }),
    ),
    chains: Type.Optional(
      Type.Record(Type.String(), Type.String(), {
        description: "Every chain of our table and where it hangs, e.g. `filter hook input priority 0`.",
      }),
    ),
    rules: Type.Optional(
      Type.Record(Type.String(), Type.String(), {
        description:
          "Every rule of our table in the kernel by its name, as what it means, e.g. `output accept ip daddr 203.0.113.5 tcp dport 443`. What is not ours is named `unmanaged: ...`.",
      }),
    ),
    order: Type.Array(Type.String(), {
      description:
        "Rules that stand where they don't have the effect they should have, e.g. an allowing rule after the rejecting one. Empty when all is well.",
    }),
    files: Type.Record(Type.String(), Type.String(), {
      description: "Our files on the node by path: mode, owner and SHA-256 of the content.",
    }),
    bootUnit: Type.Object(
      {
        state: Type.String({ description: "Unit file state as systemd says it: `enabled`." }),
        active: Type.String({ description: "`active` once it has run in this boot." }),
        beforeNetwork: Type.Boolean({ description: "Whether systemd has it ordered before the network." }),
        linkedFrom: Type.Array(Type.String(), {
          description: "Units that pull it in; the network services among them don't start without it.",
        }),
        overrides: Type.Array(Type.String(), {
          description:
            "Files that change the unit: drop-ins, those for all services included, and unit files that hide it. None are expected.",
        }),
      },
      {
        additionalProperties: false,
        description: "The unit `edgeseal-firewall.service`, which loads the rules at boot.",
      },
    ),
    nftablesService: Type.Enum(["harmless", "flushes"], {
      description:
        "Whether starting, reloading or stopping Debian's own `nftables.service` (which flushes every table) would remove ours: `harmless` when it is not there, masked, or made to keep our table.",
    }),
    foreignTables: Type.Array(Type.String(), {
      description: "Tables of others, as `family name`. Reported, never touched and not compared.",
    }),
  },
  { additionalProperties: false },
);

export type FirewallState = Static<typeof firewallState>;
