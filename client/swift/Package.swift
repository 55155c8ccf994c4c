// swift-tools-version: 6.0
// The library below is client/c's, found through pkg-config. Variables of the environment change that:
//   WEIGHTSD_XCFRAMEWORK  path of the XCFramework that `make-xcframework` makes, below this folder
//   WEIGHTS_MLX           "mlx-swift" fetches MLX from GitHub (the default on macOS); "stand-in" type-checks and tests
//                         WeightsMLX against Tests/StandIn; "none" leaves WeightsMLX empty (the default elsewhere)
import Foundation
import PackageDescription

let environment = ProcessInfo.processInfo.environment

let library: Target =
    if let framework = environment["WEIGHTSD_XCFRAMEWORK"] {
        .binaryTarget(name: "CWeightsd", path: framework)
    } else {
        .systemLibrary(name: "CWeightsd", pkgConfig: "weightsd")
    }

#if os(macOS)
    let usualMLX = "mlx-swift"
#else
    let usualMLX = "none"
#endif

var dependencies: [Package.Dependency] = []
var targets: [Target] = [
    library,
    .target(name: "Weights", dependencies: ["CWeightsd"]),
    .executableTarget(name: "weights-bench", dependencies: ["Weights"], path: "Bench"),
]

var mlx: [Target.Dependency] = []
switch environment["WEIGHTS_MLX"] ?? usualMLX {
case "mlx-swift":
    dependencies.append(.package(url: "https://github.com/ml-explore/mlx-swift", from: "0.30.6"))
    mlx = [.product(name: "MLX", package: "mlx-swift"), .product(name: "MLXNN", package: "mlx-swift")]
case "stand-in":
    targets += [
        .target(name: "MLX", path: "Tests/StandIn/MLX"),
        .target(name: "MLXNN", dependencies: ["MLX"], path: "Tests/StandIn/MLXNN"),
    ]
    mlx = ["MLX", "MLXNN"]
default:
    break
}
targets += [
    .target(name: "WeightsMLX", dependencies: ["Weights"] + mlx),
    .testTarget(name: "WeightsTests", dependencies: ["Weights", "WeightsMLX"] + mlx),
]

let package = Package(
    name: "weights",
    platforms: [.macOS(.v14)],
    products: [
        .library(name: "Weights", targets: ["Weights"]),
        .library(name: "WeightsMLX", targets: ["WeightsMLX"]),
    ],
    dependencies: dependencies,
    targets: targets
)
