// The pack is loaded with require(); a file named index.ts here would go through ts-node instead.
import("./pack.ts");
