"""Does a method keep the contract? Its checks on tiny backbones, for methods of this package and of any file."""
