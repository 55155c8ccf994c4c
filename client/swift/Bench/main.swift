// What a warm load takes through Swift, for `weightsd-bench clients`: weights-bench SOCKET MODEL COMPONENT SAMPLES. Prints
// nanoseconds, one load a line; before that, once everything is warm, a line that is empty.
import Weights

let arguments = CommandLine.arguments
guard arguments.count == 5, let samples = Int(arguments[4]) else {
    fatalError("usage: weights-bench SOCKET MODEL COMPONENT SAMPLES")
}
let connection = try await Weights.connect(socket: arguments[1])
var options = LoadOptions()
options.layout = .source  // Computing 24 GB of zeros is not what is measured.
let held = try await connection.load(arguments[2], component: arguments[3], options: options)
for _ in 0..<samples / 10 {
    _ = try await connection.load(arguments[2], component: arguments[3], options: options)
}
let clock = ContinuousClock()
var highest: UInt = 0
print()
for _ in 0..<samples {
    let begun = clock.now
    let component = try await connection.load(arguments[2], component: arguments[3], options: options)
    for tensor in component {
        highest = max(highest, tensor.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) })
    }
    let (seconds, attoseconds) = (clock.now - begun).components
    print(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
}
withExtendedLifetime((held, highest)) {}
